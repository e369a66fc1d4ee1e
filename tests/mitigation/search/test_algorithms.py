"""Search algorithms on a landscape without a generator: the reward is a function of the latents."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artiagent.config import SearchSection
from artiagent.mitigation.search.algorithms import ALGORITHMS, Outcome, Particles, RandomSearch, Source, ZeroOrder
from artiagent.records import stable_hash

TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
SHAPE = (4, 3)


def noise(seeds) -> torch.Tensor:
    return torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def source(seed: int = 0) -> Source:
    return Source(noise, lambda *where: int(stable_hash(seed, *where, length=12), 16), TIMES)


def height(latents: torch.Tensor) -> np.ndarray:
    """Reward: closeness of the mean to 1."""
    return -((latents.flatten(1).mean(1) - 1) ** 2).numpy().astype(np.float32)


def played(algorithm, rounds: int) -> list[np.ndarray]:
    """Rewards of each round; a sampler that leaves latents as they are."""
    found = []
    for number in range(rounds):
        if (asked := algorithm.ask()) is None:
            break
        keys = [f"{number}/{k}" for k in range(len(asked.seeds))]
        found.append(height(asked.latents))
        algorithm.tell(Outcome(keys, asked.latents, found[-1]))
    return found


def test_random_search_draws_two_to_the_round() -> None:
    sizes = [len(rewards) for rewards in played(RandomSearch(source(), SearchSection()), 99)]
    assert sizes == [2, 4, 8, 16, 32, 64]


@given(st.sampled_from(sorted(ALGORITHMS)), st.integers(0, 99))
def test_equal_seeds_propose_equally(name: str, seed: int) -> None:
    runs = [played(ALGORITHMS[name](source(seed), SearchSection()), 4) for _ in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))


def test_all_algorithms_begin_with_the_same_noise() -> None:
    first = [made(source(), SearchSection()).ask().latents[:2] for made in ALGORITHMS.values()]
    assert all(torch.equal(first[0], other) for other in first[1:])


@given(st.floats(0.05, 1.0), st.integers(0, 9))
def test_neighbours_keep_the_variance_of_noise(radius: float, seed: int) -> None:
    section = SearchSection(neighbours=400, radii=(radius,))
    search = ZeroOrder(source(seed), section)
    played(search, 1)
    pivot, around = search.pivot, search.ask().latents
    assert float(around.square().mean()) == pytest.approx(
        radius**2 + (1 - radius**2) * float(pivot.square().mean()), abs=0.25
    )
    towards = (around * pivot).sum() / (400 * pivot.square().sum())
    assert float(towards) == pytest.approx((1 - radius**2) ** 0.5, abs=0.1)


@given(st.integers(0, 50))
def test_the_pivot_is_the_best_so_far(seed: int) -> None:
    search = ZeroOrder(source(seed), SearchSection())
    best = np.concatenate(played(search, 6)).max()
    assert height(search.pivot[None])[0] == pytest.approx(best)


def test_neighbours_climb_higher_than_fresh_noise() -> None:
    climbed, drawn = [], []
    for seed in range(30):
        climbed.append(np.concatenate(played(ZeroOrder(source(seed), SearchSection()), 30)).max())
        fresh = RandomSearch(source(seed), SearchSection())
        drawn.append(np.concatenate(played(fresh, 6))[:120].max())
    assert np.mean(climbed) > np.mean(drawn)


def test_copies_of_a_particle_diverge_and_the_first_goes_its_way() -> None:
    search = Particles(source(), SearchSection(particles=4, temperature=0.01, churn=1.0))
    asked = search.ask()
    moved = search.steer(1, asked.latents, asked.latents * 0.5, np.array([0.0, 9.0, 0.0, 0.0]))
    assert torch.equal(moved[0], asked.latents[1])
    assert len({tuple(each.flatten().tolist()) for each in moved}) == 4


def test_particles_that_are_equally_good_all_survive() -> None:
    search = Particles(source(), SearchSection(particles=4))
    asked = search.ask()
    assert torch.equal(search.steer(1, asked.latents, asked.latents, np.full(4, 3.0)), asked.latents)


@given(st.integers(0, 3), st.integers(0, 20))
def test_restarted_particles_lie_between_picture_and_noise(step: int, seed: int) -> None:
    search = Particles(source(seed), SearchSection(particles=4, restart=step, temperature=1e-4))
    played(search, 1)
    best = search._x0[0]
    asked = search.ask()
    assert asked.step == step
    fresh = noise(asked.seeds)
    assert torch.allclose(asked.latents, (1 - TIMES[step]) * best + TIMES[step] * fresh, atol=1e-5)
    assert set(asked.parents) == {search._keys[0]}


def test_the_population_keeps_the_best() -> None:
    search = Particles(source(), SearchSection(particles=4))
    rewards = np.concatenate(played(search, 5))
    assert np.allclose(search._rewards, np.sort(rewards)[::-1][:4])
