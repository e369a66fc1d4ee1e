"""Rewards of a benchmark's images become one side of the gate, or are refused with the reason."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.config import BenchmarkSet, EvaluationSection, PromotionSection
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.images import encode
from artiagent.promotion.gate import decide
from artiagent.promotion.measure import REVISION, measurable
from artiagent.promotion.measure_reward import (
    equal_rewards,
    measure_reward,
    reward_items,
    reward_scores,
    rule_of_reward,
)

SECTION = EvaluationSection(resamples=200)
N = 80
ENTITIES = ("dog", "cat", "person")


@pytest.fixture
def benchmark(tmp_path):
    """Faulty images are darker than clean ones: brightness is a perfect reward."""
    rows = [
        {"id": f"i{k}", "image": encode(np.full((16, 16, 3), 200 - 100 * (k % 2) - k, dtype=np.uint8)),
         "has_artifacts": k % 2 == 1, "bboxes": [[4, 4, 12, 12]] if k % 2 else [], "entity": ENTITIES[k % 3],
         "explanation": "The dog has an extra ear." if k % 2 else ""}
        for k in range(N)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    return BenchmarkSet(name="b", path=str(tmp_path / "b.parquet"))


class Brightness:
    """A reward of 0..1, with so much noise that some images change places; counts what it was shown."""

    def __init__(self, noise=0.0, seed=0):
        self.noise, self.random, self.shown, self.opened = noise, np.random.default_rng(seed), 0, 0

    def open(self):
        self.opened += 1
        return self

    def __call__(self, images):
        self.shown += len(images)
        found = np.array([image.mean() / 255 for image in images])
        return (found + self.noise * self.random.normal(size=len(images))).astype(np.float32)


def side(benchmark, folder, judge, sha="s", label="version 2"):
    return measure_reward(SECTION, benchmark, reward_items(benchmark, None, judge.open, sha, folder), sha, label)


def test_rewards_are_asked_for_once_and_become_statistics_over_the_images(benchmark, tmp_path):
    judge = Brightness()
    found = side(benchmark, tmp_path / "r", judge)
    assert (judge.opened, judge.shown) == (1, N)
    assert side(benchmark, tmp_path / "r", judge).units == found.units == tuple(f"i{k}" for k in range(N))
    assert (judge.opened, judge.shown) == (1, N)
    assert found.revision == benchmark_sha256(benchmark)
    ones = np.ones((1, N), dtype=np.float32)
    for metric in ("auroc", "auroc_by_entity", "recall_at_10"):
        assert found.statistics[metric].statistic(ones)[0] == 1


def test_the_gate_compares_two_verifiers_and_equal_rewards_are_no_opponent(benchmark, tmp_path):
    good, bad = (side(benchmark, tmp_path / str(n), Brightness(n), label=f"noise {n}") for n in (0.0, 1.0))
    nothing = equal_rewards(SECTION, benchmark)
    rule, known = rule_of_reward(PromotionSection()), measurable(nothing)
    settings = {"resamples": 300, "seed": 0}
    assert decide(good, bad, rule, "pass", known, **settings).verdict == "promoted"
    assert decide(bad, good, rule, "pass", known, **settings).verdict == "kept"
    assert decide(good, good, rule, "pass", known, **settings).verdict == "kept"
    assert decide(good, nothing, rule, "pass", known, **settings).verdict == "promoted"
    failed = decide(good, bad, rule, "fail", known, **settings)
    assert failed.verdict == "kept" and "shortcut audit" in failed.reasons[0]


def test_foreign_and_stale_rewards_are_refused(benchmark, tmp_path):
    rewards = reward_items(benchmark, None, Brightness().open, "s", tmp_path / "r")
    with pytest.raises(ValueError, match="rewards of other weights"):
        measure_reward(SECTION, benchmark, rewards, "other", "version 2")
    with pytest.raises(ValueError, match="changed while the gate ran"):
        asked = rewards.model_copy(update={"summary": {**rewards.summary, REVISION: "0" * 64}})
        measure_reward(SECTION, benchmark, asked, "s", "version 2")
    with pytest.raises(ValueError, match=f"0 without a reward, {N - 8} unknown"):
        measure_reward(SECTION.model_copy(update={"limit": 8}), benchmark, rewards, "s", "version 2")
    with pytest.raises(ValueError, match="r: "):
        reward_items(benchmark, None, Brightness().open, "other", tmp_path / "r")


def test_a_reward_that_is_no_number_is_refused(benchmark, tmp_path):
    class Broken(Brightness):
        def __call__(self, images):
            return super().__call__(images) * np.nan

    with pytest.raises(ValueError, match="64 rewards of s are no number"):
        side(benchmark, tmp_path / "r", Broken())


def items_of(kinds):
    return [
        BenchmarkItem(item_id=str(k), faulty=faulty, width=8, height=8, entity=entity)
        for k, (faulty, entity) in enumerate(kinds)
    ]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(("dog", "cat", "")), st.integers(-3, 3)), min_size=2, max_size=30)
)
def test_auroc_by_entity_is_the_share_of_pairs_of_one_entity_won(drawn):
    items = items_of([(faulty, entity) for faulty, entity, _ in drawn])
    rewards = np.array([reward for *_, reward in drawn], dtype=float)
    found = reward_scores(items, rewards)
    pairs = [
        1.0 if rewards[a] > rewards[b] else 0.5 if rewards[a] == rewards[b] else 0.0
        for a, (bad_a, kind_a, _) in enumerate(drawn)
        for b, (bad_b, kind_b, _) in enumerate(drawn)
        if not bad_a and bad_b and kind_a == kind_b != ""
    ]
    assert ("auroc_by_entity" in found) == bool(pairs)
    if pairs:
        once = np.ones((1, len(items)), dtype=np.float32)
        assert found["auroc_by_entity"].statistic(once)[0] == pytest.approx(np.mean(pairs))


def test_an_image_drawn_twice_counts_as_two():
    items = items_of([(False, "dog"), (True, "dog"), (True, "dog"), (False, "cat"), (True, "cat")])
    score = reward_scores(items, np.array([1.0, 0.0, 2.0, 1.0, 0.0]))["auroc_by_entity"]
    weights = np.array([[1, 1, 2, 1, 1], [2, 1, 1, 0, 1]], dtype=np.float32)
    assert score.statistic(weights) == pytest.approx([2 / 4, 2 / 4])
    assert interval(score.statistic, draw_weights(5, 200, 0)).value == pytest.approx(2 / 3)
