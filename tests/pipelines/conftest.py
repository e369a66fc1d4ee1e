"""A whole project in miniature: real store, ZenML, MLflow and DVC; the stages write one row each."""

import importlib
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from artiagent import cli
from artiagent.records import CheckpointRef, EvaluationReport, Interval, Prediction
from artiagent.store import DatasetWriter, Row, file_sha256, folder_sha256, has_parts

HALF = Interval(value=0.5, low=0.4, high=0.6, n=10)
FUNNEL = {"scored": {"tools": {}, "pairs": {"tried": 1, "accepted": 1}}}


class TinyStages:
    """Stand-ins for the library's stage functions; ``calls`` says which ran, ``fail`` which shall raise."""

    def __init__(self):
        self.calls, self.fail, self.key = [], None, None

    def install(self, patch):
        stages = {
            "perception.stage.perceive": self.perceive,
            "synthesis.planner.plan": lambda s, scenes, patch, out: self.rows("jobs", out, scenes.digest, s.seed),
            "synthesis.stage.synthesize": lambda s, scenes, jobs, g, out, shard=None, **_: self.rows(
                "pairs", out, jobs.digest, s.steps, shard=shard
            ),
            "curation.stage.curate": self.curate,
            "instruction.conversations.build_conversations": lambda s, curated, scenes, out: self.rows(
                "conversations", out, curated.digest
            ),
            "learning.sft.finetune": lambda s, conversations, base, out: self.model("tuned", out, conversations.digest),
            "learning.reward.train_reward": lambda s, curated, clip, out, bench: self.model(
                "reward", out, curated.digest
            ),
            "evaluation.stage.predict": lambda s, model, bench, out, name, shard=None: self.rows(
                f"predictions-{name}", out, model.sha256, shard=shard
            ),
            "evaluation.stage.score": self.score,
            "report.write_report": self.report,
        }
        for name, stage in stages.items():
            module, function = name.rsplit(".", 1)
            patch.setattr(importlib.import_module(f"artiagent.{module}"), function, stage)
        patch.setattr("artiagent.report.summary.text_table", lambda summary: f"table of {summary['run']}")

    def begin(self, name):
        self.calls.append(name)
        if self.fail == name:
            raise ValueError(f"{name}: no usable input; give at least one")

    def rows(self, kind, out, *content, shard=None):
        """One row, or one a shard; joining shards writes none."""
        self.begin(f"{kind} {shard}" if shard else kind)
        writer = DatasetWriter(out, kind, shard=shard)
        text = " ".join(map(str, content))
        if not has_parts(out) or shard:
            name = f"k{shard.index}" if shard else "k"
            row = Prediction(
                benchmark="b", item_id=text, model="m", model_sha256="s", prompt_hash="p", verdict=True, score=0.5
            )
            writer.write(name, [Row(name, row)])
        return writer.seal() if shard else writer.finish({"count": 1})

    def perceive(self, section, sets, out, base, shard=None, **_):
        self.key = os.environ.get("VLM_KEY")
        return self.rows("scenes", out, *(file_sha256(Path(x.images)) for x in sets), shard=shard)

    def curate(self, section, pairs, scenes, judge, out, shard=None):
        ref = self.rows("curated", out, pairs.digest, section.seam_max, shard=shard)
        if shard is None:
            (out / "funnel.json").write_text(json.dumps(FUNNEL))
        return ref

    def model(self, name, out, *content):
        self.begin(name)
        out.mkdir(parents=True, exist_ok=True)
        (out / "weights.txt").write_text(" ".join(content))
        (out / "training.json").write_text(
            json.dumps([{"stage": "language", "step": i, "loss": 1 / i} for i in (1, 2)])
        )
        return CheckpointRef(name=name, uri=str(out), sha256=folder_sha256(out), summary={"accuracy_within": 0.7})

    def score(self, section, benchmark, predictions, out):
        self.begin("evaluation")
        return EvaluationReport(
            benchmark="b", benchmark_sha256="x", prompt_hash="p", n=10, n_faulty=5,
            scores={"base": {"macro_f1": HALF}, "tuned": {"macro_f1": HALF}}, models={"base": "1", "tuned": "2"},
        )  # fmt: skip

    def report(self, folder, bundle):
        stages = {stage: {"seconds": ref.summary["seconds"]} for stage, ref in bundle["refs"].items()}
        scores = {"tuned": {"macro_f1": HALF.model_dump()}}
        summary = {"run": bundle["name"], "stages": stages, "evaluation": {"scores": scores}, "reward": {}}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "report.html").write_text("<html></html>")
        self.bundle = bundle


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, request):
    """Smallest inputs that the run accepts: one image, three model folders, one benchmark row.

    The modules share one ZenML store: contents of their own keep one from finding the other's steps in its cache.
    """
    folder, own = tmp_path_factory.mktemp("inputs"), request.module.__name__
    pq.write_table(pa.table({"file_name": ["a.png"], "image": [own.encode()]}), folder / "images.parquet")
    pq.write_table(pa.table({"image": [own.encode()]}), folder / "benchmark.parquet")
    (folder / "annotations.json").write_text('{"images": [], "annotations": [], "categories": []}')
    for model in ("generator", "vlm", "clip"):
        (folder / model).mkdir()
        (folder / model / "weights.txt").write_text(f"{model} of {own}")
    config = {
        "profile": "tiny",
        "inputs": {
            "sets": [{"name": "s", "images": f"{folder}/images.parquet", "annotations": f"{folder}/annotations.json"}],
            "benchmarks": [{"name": "b", "path": f"{folder}/benchmark.parquet"}],
            **{model: f"{folder}/{model}" for model in ("generator", "vlm", "clip")},
        },
        "registry": {"vlm_name": "artiagent-vlm-tiny", "reward_name": "artiagent-reward-tiny"},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump({"parameters": {"config": config}}))
    return folder


@pytest.fixture(scope="module")
def project(inputs):
    """``run(*options)`` runs the command line on the tiny project and tells what happened."""
    stages = TinyStages()
    with pytest.MonkeyPatch.context() as patch:
        stages.install(patch)

        def run(*options):
            stages.calls.clear()
            code = cli.main(["run", "--config", f"{inputs}/tiny.yaml", *options])
            return SimpleNamespace(code=code, calls=list(stages.calls))

        yield SimpleNamespace(run=run, stages=stages, folder=inputs)
