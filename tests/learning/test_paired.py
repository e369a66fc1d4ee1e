"""Pairs share a batch, and the margin is the contrast of two logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from artiagent.learning.paired import PairedSampler, answer_margins


@given(st.integers(1, 60), st.integers(0, 100), st.integers(1, 8))
def test_no_batch_tears_a_pair_and_none_is_missing(pairs: int, seed: int, batch_pairs: int) -> None:
    drawn = list(PairedSampler(pairs, seed))
    assert sorted(drawn) == list(range(2 * pairs)) and len(PairedSampler(pairs, seed)) == 2 * pairs
    for start in range(0, len(drawn), 2 * batch_pairs):
        batch = drawn[start : start + 2 * batch_pairs]
        assert {index ^ 1 for index in batch} == set(batch)


def test_order_follows_seed_and_epoch() -> None:
    sampler = PairedSampler(40, seed=1)
    first = list(sampler)
    assert first == list(PairedSampler(40, seed=1)) != list(PairedSampler(40, seed=2))
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_margin_is_the_difference_of_two_logits() -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(3, 5, 8), torch.randn(11, 8)
    decision = torch.tensor([4, 0, 2])
    logits = torch.einsum("bld,vd->blv", hidden, head)
    expected = [float(logits[b, p, 7] - logits[b, p, 2]) for b, p in enumerate(decision.tolist())]
    assert answer_margins(hidden, head, decision, (7, 2)).tolist() == pytest.approx(expected, rel=1e-4)
