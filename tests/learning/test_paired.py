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


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 8), st.integers(0, 5))
def test_batches_of_like_length_keep_every_pair_and_the_seed(lengths: list[int], batch: int, seed: int) -> None:
    sampler = PairedSampler(len(lengths), seed, lengths, batch)
    drawn = list(sampler)
    assert sorted(drawn) == list(range(2 * len(lengths)))
    assert all(b == a + 1 and a % 2 == 0 for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert drawn == list(PairedSampler(len(lengths), seed, lengths, batch))


def test_like_lengths_meet_and_their_order_changes_with_the_epoch() -> None:
    lengths = [(7 * k) % 400 for k in range(400)]

    def padding(drawn: list[int]) -> int:
        batches = [[lengths[i // 2] for i in drawn[start : start + 16]] for start in range(0, 800, 16)]
        return sum(max(batch) - length for batch in batches for length in batch)

    grouped, plain = PairedSampler(400, 0, lengths, 8), PairedSampler(400, 0)
    assert padding(list(grouped)) < 0.1 * padding(list(plain))
    first = list(grouped)
    grouped.set_epoch(1)
    assert list(grouped) != first
    starts = [lengths[i // 2] for i in first[::16]]
    assert starts != sorted(starts)
