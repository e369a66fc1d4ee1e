"""The page and the summary agree, are self-contained, and survive runs in which nothing was accepted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import BenchmarkSet, Config
from artiagent.evaluation.benchmarks import read_truth
from artiagent.images import encode
from artiagent.inputs import BENCHMARKS
from artiagent.nano.artibench import write_artibench
from artiagent.records import (
    Artifact,
    Box,
    CheckpointRef,
    DatasetRef,
    EvaluationReport,
    Injection,
    Interval,
    Mask,
    Pair,
    PatchMapping,
    Prediction,
)  # fmt: skip
from artiagent.report import write_report
from artiagent.report.summary import text_table
from artiagent.store import DatasetWriter, Row

INTERVAL = Interval(value=0.71, low=0.6, high=0.8, n=12)


def pair(index: int, tool: str, accepted: bool, scored: bool = True) -> Row[Pair]:
    mapping = PatchMapping(grid=(4, 4), targets=(5,), references=(6,))
    region = np.zeros((32, 32), dtype=bool)
    region[4:20, 4:20] = True
    artifact = Artifact(
        injection=Injection(tool=tool, entity="dog", entity_id="e", part="tail", seed=1, mapping=mapping),
        box=Box(8, 8, 16, 16),
        region=Mask.encode(region),
        accepted=accepted,
        reason=None if accepted else "too_similar",
        label="extra <tail>",
        change_outside=0.0 if index else 0.01,
    )
    record = Pair(
        job_id=f"j{index}", source_id=f"s{index}", group="scenes" if scored else "photos", scored=scored, variant=0,
        width=32, height=32, prompt="a dog", artifacts=(artifact,), backbone="nano", backbone_sha256="x", sampling={},
        caption="a dog", explanation="The dog has two tails." if accepted else "",
    )  # fmt: skip
    picture = encode(np.full((32, 32, 3), 10 * index, np.uint8))
    return Row(record.job_id, record, {"clean": picture, "artifact": picture})


def answers(folder: Path, benchmark: BenchmarkSet, model: str, verdict: bool) -> DatasetRef:
    writer: DatasetWriter[Prediction] = DatasetWriter(folder, "predictions")
    rows = [
        Prediction(
            benchmark=benchmark.name, item_id=item.item_id, model=model, model_sha256="m", prompt_hash="p",
            verdict=verdict, score=float(verdict),
        )
        for item in read_truth(benchmark)
    ]  # fmt: skip
    writer.write("all", [Row(f"{row.benchmark}/{row.item_id}", row) for row in rows])
    return writer.finish()


def bundle(folder: Path, rows: list[Row[Pair]]) -> dict:
    writer: DatasetWriter[Pair] = DatasetWriter(folder / "curated", "curated", ("clean", "artifact"))
    writer.write("all", rows)
    curated = writer.finish().model_copy(update={"summary": {"seconds": 3.21, "peak_mb": 512.0}})
    tools = {"add": {"tried": 3, "accepted": 2, "reasons": {"too_similar": 1}}}
    counts = {"tried": 3, "accepted": 2, "pasted_back": 0, "benign": 0, "hard_negatives": 0}
    table = {"pairs": counts, "tools": tools}
    funnel = {"metric": "ssim", "judge": "local", "writer": "template", "scored": table, "unscored": table}
    probe = {"verdict": "insufficient n", "auroc": None, "low": None, "high": None, "n": 2}
    audit = {"verdict": "insufficient n", "upper": 0.58, "least_pairs": 300, "probes": {"ring": probe}}
    (folder / "curated" / "funnel.json").write_text(json.dumps(funnel))
    (folder / "curated" / "audit.json").write_text(json.dumps(audit))
    for name in ("vlm", "reward"):
        (folder / name).mkdir()
        points = [{"stage": "a", "step": 1, "loss": 2.0}, {"stage": "b", "step": 2, "loss": 1.0}]
        (folder / name / "training.json").write_text(json.dumps(points))
    (folder / "reward" / "scores.json").write_text(json.dumps({"within": INTERVAL.model_dump()}))
    evaluation = EvaluationReport(
        benchmark="ArtiBench-nano", benchmark_sha256="b", prompt_hash="p", n=12, n_faulty=6,
        scores={"base": {"macro_f1": INTERVAL}, "tuned": {"macro_f1": INTERVAL, "iou": INTERVAL}},
    )  # fmt: skip
    evaluation = evaluation.model_copy(update={"further": (evaluation.model_copy(update={"benchmark": "second"}),)})
    benchmark = write_artibench(folder / "bench", 8, encode=lambda images: images) / "drawn.parquet"
    drawn = BenchmarkSet(name="drawn", path=str(benchmark))
    (folder / BENCHMARKS).write_text(json.dumps([drawn.model_dump(mode="json")]))
    refs = {
        "ingest": DatasetRef(kind="inputs", uri=str(folder), digest="i", rows=1),
        "evaluate_base": answers(folder / "base", drawn, "base", verdict=True),
        "evaluate_tuned": answers(folder / "tuned", drawn, "tuned", verdict=False),
        "curate": curated,
        "finetune": CheckpointRef(name="vlm", uri=str(folder / "vlm"), sha256="v"),
        "train_reward": CheckpointRef(name="reward", uri=str(folder / "reward"), sha256="r"),
        "score": evaluation,
        "perceive": DatasetRef(kind="scenes", uri="", digest="d", rows=1),
    }
    return {"name": "nano-test", "config": Config(), "refs": refs, "lineage": {"revision": "abc"}}


@pytest.mark.parametrize("accepted", [True, False])
def test_report_and_summary(tmp_path: Path, accepted: bool) -> None:
    rows = [pair(0, "add", accepted), pair(1, "add", accepted), pair(2, "add", False), pair(3, "fuse", accepted, False)]
    summary = write_report(tmp_path / "run", bundle(tmp_path, rows))
    page = (tmp_path / "run" / "report.html").read_text()
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == json.loads(json.dumps(summary))
    assert page.count('aria-label="clean twin"') == 4
    assert "Scores on ArtiBench-nano" in page and "Scores on second" in page
    assert page.count(">false alarm<") == page.count(">miss<") == 4
    assert ("none accepted" in page) and page.count("data:image/png") == 8 + 8  # pairs, benchmark images
    assert not re.search(r'(?:src|href)="https?:', page)
    assert "extra &lt;tail&gt;" in page and "extra <tail>" not in page
    assert "0.710 [0.600, 0.800]" in page
    assert summary["background"] == {"pairs": 4, "identical_outside": 3, "worst_mean_change": 0.01}
    assert summary["stages"]["curate"] == {"seconds": 3.2, "peak_mb": 512.0}
    assert str(tmp_path) not in page


def test_text_table_holds_the_figures(tmp_path: Path) -> None:
    text = text_table(write_report(tmp_path / "run", bundle(tmp_path, [pair(1, "add", True)])))
    assert re.search(r"add\s+3\s+2\s+too_similar 1", text)
    assert "accepted pairs: 2 of 3" in text and "0.710 [0.600, 0.800]" in text
    assert re.search(r"curate\s+3\.2\s+512", text)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    made = bundle(tmp_path, [pair(1, "add", True)])
    (tmp_path / "curated" / "funnel.json").unlink()
    with pytest.raises(ValueError, match=r"funnel\.json: missing"):
        write_report(tmp_path / "run", made)
