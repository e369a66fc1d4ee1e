"""Losses counted by hand; views treat both sides of a pair alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import RewardSection
from artiagent.learning.reward.fitting import batches, cell_loss, preference_loss
from artiagent.learning.reward.heads import reward_of
from artiagent.learning.reward.pairs import Told, split
from artiagent.learning.reward.views import mirrored, varied

GENERATOR = torch.Generator().manual_seed(0)


def test_the_worst_place_decides() -> None:
    found = reward_of([torch.tensor([[-3.0, -3.0, 9.0], [-3.0, -3.0, -3.0]])])
    assert found[0].item() == pytest.approx(-9.0, abs=1e-3) and found[1].item() == pytest.approx(3 - math.log(3))


def test_preference_loss_by_hand() -> None:
    gap = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    others = ~torch.eye(2, dtype=torch.bool)
    cost = lambda x: math.log1p(math.exp(-x))  # noqa: E731
    own, crossing = (cost(1.0) + cost(0.5)) / 2, (cost(-2.0) + cost(3.0)) / 2
    none = torch.zeros(2)
    assert preference_loss(gap, others, none, "all", GENERATOR).item() == pytest.approx(own + crossing)
    assert preference_loss(gap, others, none, 0, GENERATOR).item() == pytest.approx(own)
    assert preference_loss(gap, others & False, none, "all", GENERATOR).item() == pytest.approx(own)
    ahead = preference_loss(gap, others, torch.tensor([1.0, 0.0]), 0, GENERATOR).item()
    assert ahead == pytest.approx((cost(0.0) + cost(0.5)) / 2)
    drawn = preference_loss(torch.tensor([[1.0, 3.0], [3.0, 0.5]]), others, none, 2, GENERATOR).item()
    assert drawn == pytest.approx((cost(1.0) + cost(0.5) + 2 * cost(3.0)) / 4), "the drawn ones count like pairs"


def test_cell_loss_weighs_faulty_and_sound_cells_alike() -> None:
    clean, artifact = torch.full((1, 4), -20.0), torch.tensor([[20.0, -20.0, -20.0, -20.0]])
    place = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert cell_loss(clean, artifact, place).item() == pytest.approx(0, abs=1e-6)
    assert cell_loss(clean, -artifact.abs(), place).item() == pytest.approx(10, abs=1e-3), (
        "one missed cell is half of it"
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(2, 9), st.integers(0, 99))
def test_an_epoch_shows_every_pair_once(count: int, size: int, seed: int) -> None:
    shown = [i for batch in batches(range(100, 100 + count), size, torch.Generator().manual_seed(seed)) for i in batch]
    assert sorted(shown) == list(range(100, 100 + count))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_views_change_both_sides_alike_and_move_the_region_along(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side = torch.from_numpy(rng.random((1, 1, 3, 32, 32), dtype=np.float32)) * 0.4 + 0.2
    pixels, region = side.repeat(1, 2, 1, 1, 1), torch.zeros(1, 1, 32, 32)
    y, x = (int(v) for v in rng.integers(4, 20, 2))
    region[..., y : y + 8, x : x + 8] = 1
    pixels[:, 1] = torch.where(region.bool(), 1.0 - pixels[:, 1], pixels[:, 1])
    for seen, place in (mirrored(pixels, region), varied(pixels, region, torch.Generator().manual_seed(seed))):
        assert seen.shape == pixels.shape and seen.min() >= 0 and seen.max() <= 1
        assert 0 < place.sum() <= 64
        # Contrast turns about the mean of both sides, blur reaches a pixel further, noise is each side's own.
        difference = (seen[:, 0] - seen[:, 1]).abs().amax(1, keepdim=True)
        near = torch.nn.functional.max_pool2d(place, 3, 1, 1).bool()
        assert difference[~near].max() < 0.2 and difference[place.bool()].mean() > 0.2


def test_members_learn_from_disjoint_sources() -> None:
    told = [Told(f"s{k // 2}", benign=k % 7 == 0) for k in range(400)]
    section = RewardSection()
    parts = split(section, told, "here")
    names = [{told[i].source for i in part} for part in (*parts.members, parts.held)]
    assert not names[0] & names[1] and not (names[0] | names[1]) & names[2]
    taken = sorted(i for part in (*parts.members, *parts.benign, parts.held, parts.held_benign) for i in part)
    assert taken == list(range(400))
    assert all(told[i].benign for part in (*parts.benign, parts.held_benign) for i in part)
    assert min(map(len, parts.members)) > 100
