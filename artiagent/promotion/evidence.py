"""What is kept of a model version beside its weights: recipe and curve, data and licences, audit, scores.

Collected once, when the version is registered, from the references of the run that made it; the gate and the card read
it from the registry, also on another machine. Knows files beside data sets and models, and no registry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from artiagent.checkpoints import model_name
from artiagent.config import Config
from artiagent.curation.funnel import AUDIT
from artiagent.licences import LicenceCounts, licence_of_model, summary_of
from artiagent.promotion.gate import UNRECORDED
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval, Record

CURVE = "training.json"
SHOWN = 40  # points of a curve that are kept


class Base(Record):
    """The model that was trained on."""

    name: str
    sha256: str = ""
    licence: str = ""


class Evidence(Record):
    """Origin, recipe and scores of one version."""

    kind: Literal["vlm", "reward"]
    profile: str
    sha256: str
    base: Base
    family: str = ""  # model_type of the weights' configuration
    run: str = ""
    revision: str = ""  # of the sources
    data: dict[str, str] = {}  # kind -> digest
    rows: dict[str, int] = {}  # kind -> rows
    licences: LicenceCounts | None = None
    audit: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    curve: tuple[dict[str, float | int | str], ...] = ()
    evaluation: EvaluationReport | None = None
    scores: dict[str, Interval] = {}  # of a reward model: on held-out pairs of its own set, and on the benchmark
    benchmark: str = ""  # of a reward model's scores
    benchmark_sha256: str = ""
    predictions: str = ""  # folder of the model's answers on the benchmarks
    predictions_code: str = ""  # digest of the sources that they were made with

    @property
    def audit_verdict(self) -> str:
        return str(self.audit.get("verdict", UNRECORDED))

    def tags(self) -> dict[str, str]:
        """What the registry shows and the gate asks for, as text."""
        told = {
            "kind": self.kind, "profile": self.profile, "family": self.family, "base": self.base.name,
            "base_sha256": self.base.sha256, "audit": self.audit_verdict, "predictions": self.predictions,
            "predictions_code": self.predictions_code,
            **{f"data.{kind}": digest for kind, digest in self.data.items()},
        }  # fmt: skip
        found = self.evaluation or self
        told |= {"benchmark": found.benchmark, "benchmark_sha256": found.benchmark_sha256}
        if self.evaluation is not None:
            told["prompt_hash"] = self.evaluation.prompt_hash
        return {key: value for key, value in told.items() if value}


def of_vlm(
    config: Config,
    curated: DatasetRef,
    conversations: DatasetRef,
    tuned: CheckpointRef,
    predictions: DatasetRef,
    evaluation: EvaluationReport,
) -> Evidence:
    """Evidence of a fine-tuned vision-language model."""
    return _collect(
        "vlm", config, tuned, config.inputs.vlm, {"curated": curated, "conversations": conversations},
        recipe=config.sft.model_dump(mode="json"), evaluation=evaluation, predictions=predictions.uri,
        predictions_code=str(predictions.summary.get("lineage.code", "")),
    )  # fmt: skip


def of_reward(config: Config, curated: DatasetRef, reward: CheckpointRef, evaluation: EvaluationReport) -> Evidence:
    """Evidence of a reward model; the run's evaluation says which revision of the benchmark it was scored on."""
    scores = _read(Path(reward.uri) / "scores.json") or {}
    base = "" if config.reward.encoder == "cnn" else getattr(config.inputs, config.reward.tower)
    return _collect(
        "reward", config, reward, base, {"curated": curated},
        recipe=config.reward.model_dump(mode="json"), scores=scores, benchmark=evaluation.benchmark,
        benchmark_sha256=evaluation.benchmark_sha256,
    )  # fmt: skip


def _collect(
    kind: Literal["vlm", "reward"],
    config: Config,
    model: CheckpointRef,
    base: str,
    data: dict[str, DatasetRef],
    **told: Any,
) -> Evidence:
    folder = Path(model.uri)
    configuration = _read(folder / "config.json") or {}
    curated = data["curated"]
    start = Base(name="none, trained from random weights")
    if base:
        start = Base(name=model_name(base), sha256=model.base_sha256, licence=licence_of_model(base).name)
    return Evidence(
        kind=kind,
        profile=config.profile,
        sha256=model.sha256,
        base=start,
        family=str(configuration.get("model_type", "")),
        run=str(model.summary.get("lineage.run", "")),
        revision=str(model.summary.get("lineage.revision", "")),
        data={name: ref.digest for name, ref in data.items()},
        rows={name: ref.rows for name, ref in data.items()},
        licences=summary_of(curated),
        audit=_read(Path(curated.uri) / AUDIT) or {},
        curve=_thinned(_read(folder / CURVE) or []),
        **told,
    )


def _thinned(curve: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """At most ``SHOWN`` points, the last one among them; numbers and names only."""
    step = max(1, -(-len(curve) // SHOWN))
    kept = curve[::-1][::step][::-1]
    return tuple({k: v for k, v in row.items() if isinstance(v, (int, float, str))} for row in kept)


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None
