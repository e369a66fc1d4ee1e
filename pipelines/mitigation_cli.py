"""What ``artiagent search``, ``artiagent audit`` and ``artiagent fix --benchmark`` do as pipelines, and print."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from artiagent.checkpoints import checkpoint_ref, model_name
from artiagent.config import Config
from artiagent.orchestration import open_model
from artiagent.records import CheckpointRef
from artiagent.store import runs_dir

if TYPE_CHECKING:
    from steps.report_mitigation import Kind

SHOWN = 24  # lines of figures; all of them are in the report


def search(arguments: argparse.Namespace, root: Path) -> int:
    """Prompts from a file, models from the registry unless they are given."""
    from artiagent.mitigation.prompts import read_prompts
    from artiagent.mitigation.search.cli import configured

    config = configured(arguments)
    prompts = list(read_prompts(config.search.prompts, config.search.limit))
    models = {
        "generator": _placed(config.inputs.sampler), "reward": _reward(arguments, config),
        "clip": checkpoint_ref("clip", config.inputs.clip), "vlm": _vlm(arguments, config), **_parser(config),
    }  # fmt: skip
    name = _run("search", config, models, {"prompts": prompts}, arguments, root)
    _print("search", name, ("courses",), f"{len(prompts)} prompts, first round to last")
    return 0


def correct_benchmark(arguments: argparse.Namespace, root: Path) -> int:
    """The primary benchmark through the correction loop."""
    from artiagent.inputs import benchmark_digests
    from artiagent.mitigation.correction.cli import configured

    config = configured(arguments)
    benchmark = config.inputs.benchmarks[0]
    models = {
        "inpainter": _placed(arguments.inpainter or config.inputs.inpainter), "reward": _reward(arguments, config),
        "vlm": _vlm(arguments, config), **_parser(config),
    }  # fmt: skip
    name = _run("correction", config, models, {"digests": benchmark_digests([benchmark])}, arguments, root)
    _print("correction", name, ("scores",), f"correction of {benchmark.name}")
    return 0


def audit(arguments: argparse.Namespace, root: Path) -> int:
    """Generators side by side."""
    from artiagent.inputs import benchmark_digests
    from artiagent.mitigation.audit.cli import UNREAD, configured
    from artiagent.mitigation.audit.records import AuditReport
    from artiagent.mitigation.audit.tables import text_table

    config = configured(arguments)
    models = {"vlm": _vlm(arguments, config), **_parser(config)}
    name = _run("audit", config, models, {"digests": benchmark_digests(config.inputs.benchmarks)}, arguments, root)
    report = AuditReport.model_validate_json((runs_dir() / name / "audit.json").read_bytes())
    print(f"\n{text_table(report)}")
    _places("audit", name)
    return UNREAD if any(found.unread for found in report.generators.values()) else 0


def _run(
    kind: Kind, config: Config, models: dict[str, CheckpointRef], parameters: dict[str, Any],
    arguments: argparse.Namespace, root: Path,
) -> str:  # fmt: skip
    """Run the pipeline; returns the run's name."""
    from pipelines import mitigation
    from pipelines.cli import execute, submission

    document = yaml.safe_load(Path(arguments.config).read_text())
    with submission(arguments.stack, config):
        name = mitigation.open_mitigation(kind, config, models, parameters, document, root)
        print(f"{name}: {', '.join(f'{role} {ref.name}' for role, ref in models.items())}", flush=True)
        execute(getattr(mitigation, kind), name, config)
    return name


def _placed(location: str) -> CheckpointRef:
    return checkpoint_ref(model_name(location), location)


def _reward(arguments: argparse.Namespace, config: Config) -> CheckpointRef:
    return open_model(arguments.reward or f"models:/{config.registry.reward_name}@champion")


def _vlm(arguments: argparse.Namespace, config: Config) -> CheckpointRef:
    return open_model(arguments.model or f"models:/{config.registry.vlm_name}@champion")


def _parser(config: Config) -> dict[str, CheckpointRef]:
    return {"parser": checkpoint_ref("parser", config.inputs.parser)} if config.inputs.parser else {}


def _print(kind: Kind, name: str, wanted: tuple[str, ...], title: str) -> None:
    """A short table of intervals: of a search the gains, of a correction the scores."""
    from artiagent.promotion.card import interval_text
    from steps.report_mitigation import files_of, intervals

    figures = json.loads((runs_dir() / name / files_of(kind)[1]).read_text())
    shown = [
        (path, found)
        for path, step, found in intervals({key: figures[key] for key in wanted})
        if step == 0 and (kind != "search" or "/gains/" in path)
    ]
    print(f"\n{title}")
    for path, found in shown[:SHOWN]:
        print(f"  {path.split('/', 1)[1]:<40}{interval_text(found, '+' if kind == 'search' else '')}")
    for remark in figures.get("remarks", ()):
        print(f"  {remark}")
    _places(kind, name)


def _places(kind: Kind, name: str) -> None:
    from pipelines.cli import print_places
    from steps.report_mitigation import files_of

    print_places(runs_dir() / name, *files_of(kind))
