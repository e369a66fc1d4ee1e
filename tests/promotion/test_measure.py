"""Stamped answers become one side of the gate, or are refused with the reason."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet, EvaluationSection, PromotionSection
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.images import encode
from artiagent.promotion.gate import decide
from artiagent.promotion.measure import REVISION, measurable, measure, rule_of, trivial
from artiagent.records import Box, Prediction
from artiagent.store import DatasetWriter, Row

SECTION = EvaluationSection(resamples=200)
N = 12


@pytest.fixture
def benchmark(tmp_path):
    image = encode(np.zeros((32, 32, 3), dtype=np.uint8))
    rows = [
        {"id": f"i{k}", "image": image, "has_artifacts": k % 2 == 0, "bboxes": [[4, 4, 12, 12]] if k % 2 == 0 else [],
         "explanation": "The dog has an extra ear." if k % 2 == 0 else "", "entity": "dog", "part": "ear"}
        for k in range(N)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    return BenchmarkSet(name="b", path=str(tmp_path / "b.parquet"))


@pytest.fixture
def answered(tmp_path):
    """Writes answers: ``items`` may be fewer or more than the benchmark's."""

    def write(items=range(N), sha="s", prompts=("p",), score=0.5):
        writer = DatasetWriter(tmp_path / "answers", "predictions")
        rows = [
            Prediction(
                benchmark="b", item_id=f"i{k}", model="m", model_sha256=sha, prompt_hash=prompts[k % len(prompts)],
                verdict=k % 2 == 0, score=score, boxes=(Box(4, 4, 12, 12),) if k % 2 == 0 else (), explanation="ear",
            )
            for k in items
        ]  # fmt: skip
        writer.write("a", [Row(f"b/{row.item_id}", row) for row in rows])
        return writer.finish()

    return write


def test_answers_become_statistics_over_the_items_of_the_benchmark(benchmark, answered):
    found = measure(SECTION, benchmark, answered(reversed(range(N))), "s", "version 2")
    assert found.units == tuple(f"i{k}" for k in range(N))
    assert (found.prompts, found.revision) == ("p", benchmark_sha256(benchmark))
    ones = np.ones((1, N), dtype=np.float32)
    assert found.statistics["macro_f1"].statistic(ones)[0] == 1
    assert found.statistics["iou"].statistic(ones)[0] == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sha": "other"}, "answers of other weights"),
        ({"prompts": ("p", "q")}, "answers to 2 different prompts"),
        ({"items": range(N - 2)}, "2 without an answer, 0 unknown"),
        ({"items": range(N + 1)}, "0 without an answer, 1 unknown"),
    ],
)
def test_foreign_or_incomplete_answers_are_refused(benchmark, answered, given, said):
    with pytest.raises(ValueError, match=said):
        measure(SECTION, benchmark, answered(**given), "s", "version 2")


def test_a_benchmark_that_changed_since_the_answers_is_refused(benchmark, answered):
    answers = answered()
    asked = answers.model_copy(update={"summary": {REVISION: "0" * 64}})
    with pytest.raises(ValueError, match="changed while the gate ran"):
        measure(SECTION, benchmark, asked, "s", "version 2")


def test_a_broken_benchmark_is_an_error_that_names_it(benchmark, answered, tmp_path):
    answers = answered()
    file = tmp_path / "b.parquet"
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"b\.parquet"):
        measure(SECTION, benchmark, answers, "s", "version 2")


def test_trivial_answers_tell_which_metrics_a_benchmark_has(benchmark):
    answers = trivial(SECTION.model_copy(update={"tasks": ("detection",)}), benchmark, "p")
    assert {"macro_f1", "auroc", "iou", "rouge_l", "grounded_recall", "css"} <= measurable(answers)
    ones = np.ones((1, N), dtype=np.float32)
    assert answers.statistics["macro_f1"].statistic(ones)[0] == pytest.approx(1 / 3)
    assert answers.statistics["iou"].statistic(ones)[0] == pytest.approx(
        64 / 1024
    )  # the whole image; the centre box has .053


def test_scores_that_a_model_does_not_give_are_a_refusal(benchmark, answered):
    """AUROC needs a probability for every image; a model without any must not slip past a guarded AUROC."""
    found = measure(SECTION, benchmark, answered(score=None), "s", "version 2")
    answers = trivial(SECTION, benchmark, "p")
    rule = rule_of(PromotionSection(guarded=("auroc",)))
    decision = decide(found, answers, rule, "pass", measurable(answers), resamples=200, seed=0)
    assert decision.verdict == "refused"
    assert "auroc is guarded and cannot be computed from the answers of version 2" in decision.reasons[0]
