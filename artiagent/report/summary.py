"""Collects the figures of a run from the references and the files beside them. Computes nothing new about models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from artiagent.records import ARTIFACT_TOOLS, CheckpointRef, DatasetRef, EvaluationReport, Pair
from artiagent.store import read_rows

COST = ("seconds", "peak_mb")


def summarise(bundle: dict[str, Any]) -> dict[str, Any]:
    """Machine-readable figures of a run: funnel, background, scores, reward, cost per stage, digests, lineage."""
    refs = bundle["refs"]
    curated, evaluation, reward = refs["curate"], refs["score"], refs["train_reward"]
    return {
        "run": bundle["name"],
        "profile": bundle["config"].profile,
        "pairs": read_json(Path(curated.uri) / "funnel.json"),
        "background": background(curated),
        "audit": read_json(Path(curated.uri) / "audit.json"),
        "evaluation": evaluation.model_dump(mode="json", exclude={"summary"}),
        "reward": read_json(Path(reward.uri) / "scores.json"),
        "stages": {stage: cost(ref) for stage, ref in refs.items()},
        "digests": {stage: digest(ref) for stage, ref in refs.items()},
        "versions": bundle.get("registered", {}),
        "published": bundle.get("published", {}),
        "lineage": bundle.get("lineage", {}),
        "config": bundle["config"].model_dump(mode="json"),
    }


def read_json(path: Path) -> Any:
    """Content of a JSON file that a stage wrote beside its output. Raises ValueError naming a missing one."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; the stage that writes it did not finish, run again")
    return json.loads(path.read_text())


def cost(ref: Any) -> dict[str, float]:
    """Seconds and peak memory of the stage when it really ran, however often its result was reused since."""
    return {key: round(float(ref.summary[key]), 1) for key in COST if key in ref.summary}


def digest(ref: DatasetRef | CheckpointRef | EvaluationReport) -> str:
    """What identifies the content of an output."""
    if isinstance(ref, DatasetRef):
        return ref.digest
    return ref.sha256 if isinstance(ref, CheckpointRef) else ref.benchmark_sha256


def background(curated: DatasetRef) -> dict[str, float | int]:
    """How well the two sides of the pairs agree outside the recorded regions, as measured, not assumed."""
    pairs = identical = 0
    worst = 0.0
    for row in read_rows(curated, Pair, images=()):
        leak = max(a.change_outside for a in row.record.artifacts)
        pairs, identical, worst = pairs + 1, identical + (leak == 0), max(worst, leak)
    return {"pairs": pairs, "identical_outside": identical, "worst_mean_change": worst}


def funnel_rows(pairs: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per tool and kernel of the scored groups, for tables."""
    tools = pairs["scored"]["tools"]
    names = [name for tool in (*ARTIFACT_TOOLS, "benign") for name in sorted(tools) if name.split("/")[0] == tool]
    return [{"name": name, "kernel": "/" in name, **tools[name]} for name in names]


def funnel_lines(pairs: dict[str, Any]) -> list[str]:
    """The funnel of the scored groups as lines of text."""
    lines = [f"{'tool':<18}{'tried':>7}{'accepted':>10}   rejected for"]
    for row in funnel_rows(pairs):
        reasons = ", ".join(f"{k} {v}" for k, v in row["reasons"].items()) or "-"
        lines.append(f"{'  ' * row['kernel'] + row['name']:<18}{row['tried']:>7}{row['accepted']:>10}   {reasons}")
    return lines


def text_table(summary: dict[str, Any]) -> str:
    """The short table that a run prints at its end."""
    lines = funnel_lines(summary["pairs"])
    counts = summary["pairs"]["scored"]["pairs"]
    kept = summary["background"]
    lines += [
        f"accepted pairs: {counts['accepted']} of {counts['tried']}; identical outside the recorded region: "
        f"{kept['identical_outside']} of {kept['pairs']}",
        "",
    ]
    for part in (summary["evaluation"], *summary["evaluation"]["further"]):
        lines += [*score_lines(part), ""]
    lines.append("reward            " + "   ".join(f"{k} {interval_text(v)}" for k, v in summary["reward"].items()))
    lines += ["", f"{'stage':<18}{'seconds':>9}{'peak MB':>9}"]
    for stage, spent in summary["stages"].items():
        lines.append(f"{stage:<18}{spent.get('seconds', 0):>9.1f}{spent.get('peak_mb', 0):>9.0f}")
    return "\n".join(lines)


def score_lines(report: dict[str, Any]) -> list[str]:
    """A benchmark's scores as lines of text: models, then trivial baselines."""
    lines = [f"{report['benchmark']:<18}{'macro-F1':>22}{'AUROC':>22}{'IoU':>22}{'ROUGE-L':>22}"]
    for model, scores in report["scores"].items():
        cells = "".join(f"{interval_text(scores.get(k)):>22}" for k in ("macro_f1", "auroc", "iou", "rouge_l"))
        lines.append(f"{model:<18}{cells}")
    return lines


def interval_text(interval: dict[str, float] | None) -> str:
    """``.71 [.66, .75]``; a dash where a metric does not apply."""
    if interval is None:
        return "-"
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"
