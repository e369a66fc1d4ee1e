"""Rewards of a benchmark's images -> one side of the gate; equal rewards where there is none.

Two verifiers may have learnt from different curated sets, and held-out pairs of one set may be training pairs of the
other. So both are asked about the images of the primary benchmark, which no reward is ever trained on: units are its
images. Held-out pair accuracies stay in each version's evidence, where they are that version's own.

Knows benchmark items, stored rewards and metrics. Does not know how a reward is computed and knows no registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from artiagent.config import BenchmarkSet, EvaluationSection, PromotionSection
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_items, read_truth
from artiagent.evaluation.bootstrap import Statistic
from artiagent.evaluation.metrics import auroc, recall_at
from artiagent.evaluation.scoring import FALSE_ALARMS, Score
from artiagent.images import decode
from artiagent.promotion.gate import Measured, Rule
from artiagent.promotion.measure import REVISION, TRIVIAL
from artiagent.records import DatasetRef, Record, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows

BATCH = 64  # images in memory at a time
ASKED = "nothing but the image"  # what stands for a prompt

Scorer = Callable[[Sequence[np.ndarray]], np.ndarray]  # images -> rewards, higher is better


class Rewarded(Record):
    """The reward of one benchmark image; stored under the image's id."""

    item_id: str
    reward: float


def rule_of_reward(section: PromotionSection) -> Rule:
    """The configured rule."""
    return Rule(section.reward_primary, tuple(section.reward_guarded), section.audit == "required")


def reward_items(
    benchmark: BenchmarkSet, limit: int | None, open_scorer: Callable[[], Scorer], sha256: str, out: Path
) -> DatasetRef:
    """Rewards of all images of the benchmark, made once; ``open_scorer`` is called only when there are none yet.

    Raises ValueError when ``out`` holds rewards of other weights or another revision, or a reward is no number.
    """
    stamp = stable_hash(sha256, benchmark_sha256(benchmark), str(limit), length=16)
    if (done := open_dataset(out, stamp)) is not None:
        return done
    scorer = open_scorer()
    writer: DatasetWriter[Rewarded] = DatasetWriter(out, "rewards", stamp=stamp)
    for index, batch in enumerate(_batches(benchmark, limit)):
        found = scorer([decode(image) for _, image in batch])
        if not np.isfinite(found).all():
            raise ValueError(
                f"{benchmark.path}: {int((~np.isfinite(found)).sum())} rewards of {sha256[:12]} are no number"
            )
        rows = [Rewarded(item_id=item.item_id, reward=float(r)) for (item, _), r in zip(batch, found, strict=True)]
        writer.write(f"{stamp}-{index:06d}", [Row(row.item_id, row) for row in rows])
    return writer.finish({"sha256": sha256})


def measure_reward(
    section: EvaluationSection, benchmark: BenchmarkSet, rewards: DatasetRef, sha256: str, label: str
) -> Measured:
    """One verifier's statistics on the benchmark as it is now.

    Raises ValueError for rewards of other weights, of another revision, or that are not about exactly its items.
    """
    revision = benchmark_sha256(benchmark)
    asked = rewards.summary.get(REVISION, revision)
    if asked != revision:
        raise ValueError(
            f"{benchmark.path}: changed while the gate ran: {label} scored revision {str(asked)[:12]}, the files are "
            f"{revision[:12]} now; run again"
        )
    if (found := rewards.summary.get("sha256")) != sha256:
        raise ValueError(
            f"{rewards.uri}: rewards of other weights ({str(found)[:12]}, expected {sha256[:12]}); delete the folder"
        )
    items = read_truth(benchmark, section.limit)
    known = {row.record.item_id: row.record.reward for row in read_rows(rewards, Rewarded)}
    if known.keys() != (wanted := {item.item_id for item in items}):
        raise ValueError(
            f"{rewards.uri}: not about the items of benchmark {benchmark.name!r}: {len(wanted - known.keys())} without "
            f"a reward, {len(known.keys() - wanted)} unknown; the benchmark or evaluation.limit changed"
        )
    found = np.array([known[item.item_id] for item in items])
    return _side(label, sha256, revision, items, found)


def equal_rewards(section: EvaluationSection, benchmark: BenchmarkSet) -> Measured:
    """The same reward for every image: what a first champion has to beat."""
    items = read_truth(benchmark, section.limit)
    return _side(TRIVIAL, "trivial", benchmark_sha256(benchmark), items, np.zeros(len(items)))


def _side(label: str, sha256: str, revision: str, items: Sequence[BenchmarkItem], found: np.ndarray) -> Measured:
    return Measured(
        label=label, sha256=sha256, revision=revision, prompts=ASKED, units=tuple(item.item_id for item in items),
        statistics=reward_scores(items, found),
    )  # fmt: skip


def reward_scores(items: Sequence[BenchmarkItem], rewards: np.ndarray) -> dict[str, Score]:
    """Metric -> statistic over the images, for those that the benchmark has a ground truth for.

    ``auroc`` is the chance that a clean image gets a higher reward than a faulty one; ``auroc_by_entity`` compares
    images of the same entity only, as a search among pictures of one prompt does; ``recall_at_10`` is the share of
    faulty images below the reward that a tenth of the clean ones falls short of.

    Args:
        items: ground truth.
        rewards: [n], aligned with the items.
    """
    faulty = np.array([item.faulty for item in items])
    if faulty.all() or not faulty.any():
        return {}
    scores = {
        "auroc": Score(auroc(faulty, -rewards), len(items)),
        "recall_at_10": Score(recall_at(faulty, -rewards, FALSE_ALARMS), len(items)),
    }
    entities = np.array([item.entity for item in items])
    both = {*entities[faulty]} & {*entities[~faulty]} - {""}
    if both:
        groups = [np.flatnonzero(entities == entity) for entity in sorted(both)]
        scores["auroc_by_entity"] = Score(_auroc_within(groups, faulty, rewards), sum(map(len, groups)))
    return scores


def _auroc_within(groups: Sequence[np.ndarray], faulty: np.ndarray, rewards: np.ndarray) -> Statistic:
    """Share of (clean, faulty) pairs of one group in which the clean image has the higher reward, ties half."""
    tables = []
    for group in groups:
        clean, bad = group[~faulty[group]], group[faulty[group]]
        higher = np.sign(rewards[clean][:, None] - rewards[bad][None])  # -1, 0, 1 -> 0, .5, 1 below
        tables.append((clean, bad, (higher + 1) / 2))

    def statistic(weights: np.ndarray) -> np.ndarray:
        won = sum((weights[:, clean] @ wins * weights[:, bad]).sum(1) for clean, bad, wins in tables)
        met = sum(weights[:, clean].sum(1) * weights[:, bad].sum(1) for clean, bad, _ in tables)
        return np.divide(won, met, out=np.full(len(weights), np.nan), where=met > 0)

    return statistic


def _batches(benchmark: BenchmarkSet, limit: int | None) -> Iterator[list[tuple[BenchmarkItem, bytes]]]:
    rest = read_items(benchmark, limit)
    while batch := list(islice(rest, BATCH)):
        yield batch
