"""The commands that need ZenML or MLflow: run, ablate, study, search, audit, runs, promote, ui. Loaded lazily."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from artiagent.inputs import input_digests
from artiagent.publish import check_publishable
from artiagent.run_config import effective_config
from artiagent.settle import settle
from pipelines.environment import active_stack, prepare

if TYPE_CHECKING:
    from zenml.models import PipelineRunResponse
    from zenml.pipelines import Pipeline

    from artiagent.config import Config
    from pipelines.runs import RunRecord, StageResult
    from steps.stage import Ref

OUTPUT_OF_STAGE = {
    "ingest": "inputs", "perceive": "scenes", "plan": "jobs", "synthesize": "pairs", "curate": "curated",
    "instruct": "conversations", "finetune": "tuned", "evaluate_base": "predictions_base",
    "evaluate_tuned": "predictions_tuned", "score": "evaluation", "train_reward": "reward",
}  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Run the whole chain on one configuration and print where to look."""
    overrides = [*arguments.set, *(["registry.acknowledge_noncommercial=true"] * arguments.acknowledge_noncommercial)]
    config = effective_config(arguments.config, overrides, arguments.images, arguments.annotations)
    check_publishable(config)
    root = prepare(arguments.debug)
    with submission(arguments.stack, config):
        print("reading inputs ...", flush=True)
        config, notes = settle(config)
        for note in notes:
            print(note, flush=True)
        digests = input_digests(config.inputs)

        from pipelines.end_to_end import CACHED, end_to_end
        from pipelines.runs import close_run, open_run

        document = yaml.safe_load(Path(arguments.config).read_text())
        record = open_run(config, digests, CACHED, document, root)
        print(f"run {record.name}: {len(config.inputs.sets)} input sets, {len(CACHED)} cached stages", flush=True)
        results = collect(execute(end_to_end, record.name, config))
    print_results(close_run(record, results))
    return 0


def ablate(arguments: argparse.Namespace) -> int:
    """Run every row of an ablation and print the table and where the report lies."""
    from artiagent.ablation.rows import load_ablation

    names = [name for name in (arguments.rows or "").split(",") if name]
    ablation = load_ablation(arguments.config, arguments.set, names, detect=not arguments.no_detect)
    root = prepare(arguments.debug)
    print("reading inputs ...", flush=True)
    shared = ablation.shared()
    digests = input_digests(shared.inputs)

    from pipelines.ablation import ablation as pipeline
    from pipelines.ablation import open_ablation

    rows = ablation.section.rows
    with submission(arguments.stack, shared):
        name = open_ablation(ablation, digests, yaml.safe_load(Path(arguments.config).read_text()), root)
        print(f"{name}: {len(rows)} rows, {sum(row.detect for row in rows)} of them with a detection score", flush=True)
        execute(pipeline, name, shared)
    print_ablation(name)
    return 0


def print_ablation(name: str) -> None:
    """The table and the commands that open more."""
    from artiagent.ablation.table import AblationTable, text
    from artiagent.report.ablation import PAGE, TABLE
    from artiagent.store import runs_dir

    folder = runs_dir() / name
    print(f"\n{text(AblationTable.model_validate_json((folder / TABLE).read_text()))}")
    print_places(folder, PAGE, TABLE)


def study(arguments: argparse.Namespace) -> int:
    """Make every run of a study and print its findings and where the report lies."""
    from artiagent.studies.rows import load_study

    names = [name for name in (arguments.groups or "").split(",") if name]
    planned = load_study(arguments.config, arguments.set, names)
    root = prepare(arguments.debug)
    print("reading inputs ...", flush=True)
    shared = planned.shared()
    digests = input_digests(shared.inputs)

    from pipelines.study import open_study
    from pipelines.study import study as pipeline

    groups = ", ".join(group.name for group in planned.section.groups)
    with submission(arguments.stack, shared):
        name = open_study(planned, digests, yaml.safe_load(Path(arguments.config).read_text()), root)
        print(f"{name}: {len(planned.plan()[0].runs)} models for the groups {groups}", flush=True)
        execute(pipeline, name, shared)
    print_study(name)
    return 0


def print_study(name: str) -> None:
    """Findings, figures, and the commands that open more."""
    from artiagent.report.study import PAGE, TABLE
    from artiagent.store import runs_dir
    from artiagent.studies.findings import text
    from artiagent.studies.table import StudyTable

    folder = runs_dir() / name
    print(f"\n{text(StudyTable.model_validate_json((folder / TABLE).read_text()))}")
    print_places(folder, PAGE, TABLE)


def print_places(folder: Path, page: str, table: str) -> None:
    """The commands that open more."""
    print(f"\nreport:      xdg-open {_near(folder)}/{page}\nfigures:     {_near(folder)}/{table}")
    print("dashboards:  make ui   (MLflow and ZenML on 127.0.0.1)")


@contextmanager
def submission(stack: str | None, config: Config) -> Iterator[None]:
    """The named stack, or the active one, as the active one; found fit for the configuration before anything starts.

    Raises ConfigError, a line for each problem (`preflight`), and ValueError for an unknown stack.
    """
    from zenml.client import Client

    from pipelines import preflight

    preflight.server()
    with active_stack(stack):
        preflight.check(config, Client().active_stack)
        yield


def execute(pipeline: Pipeline, name: str, config: Config) -> PipelineRunResponse:
    """Run a pipeline as a version of the ZenML model "artiagent"; raises what the failing stage raised.

    The run's folder goes along where stages run on other machines, and is here again when they have ended.
    """
    from zenml import Model
    from zenml.exceptions import RunInterruptedException, ZenMLBaseException

    from artiagent import exchange
    from artiagent.store import runs_dir
    from pipelines.placement import pipeline_settings
    from pipelines.runs import CONFIG

    exchange.send_run(name)
    model = Model(name="artiagent", version=name, tags=[config.profile])
    pipeline = pipeline.with_options(
        config_path=str(runs_dir() / name / CONFIG), run_name=f"{name}-{{date}}-{{time}}", model=model,
        settings=pipeline_settings(config),
    )  # fmt: skip
    try:
        finished = pipeline()
    except RunInterruptedException as stop:  # ZenML's signal handler turns Ctrl-C into this
        raise KeyboardInterrupt from stop
    except ZenMLBaseException as error:
        raise RuntimeError(f"run {name}: {error}") from error
    if finished is None or not finished.status.is_successful:
        status = finished.status.value if finished else "not started"
        raise RuntimeError(f"run {name}: {status}; see it with 'make ui'")
    exchange.fetch_run(name)
    return finished


def collect(finished: PipelineRunResponse) -> dict[str, StageResult]:
    """Digest, cost and cache status of every cached stage; a sharded one is cached where all its pieces are."""
    from pipelines.runs import StageResult
    from steps.stage import digest_of, shards_of

    results = {}
    for stage, output in OUTPUT_OF_STAGE.items():
        step = finished.steps[stage]
        pieces = shards_of(stage, finished)
        ref: Ref = step.outputs[output][0].load()
        results[stage] = StageResult(
            digest=digest_of(ref), cached=all(s.status.value == "cached" for s in (step, *pieces)),
            seconds=float(ref.summary.get("seconds", 0)), peak_mb=float(ref.summary.get("peak_mb", 0)),
        )  # fmt: skip
    return results


def print_results(record: RunRecord) -> None:
    """The short table and the commands that open more."""
    from artiagent.report.summary import text_table
    from artiagent.store import runs_dir
    from pipelines.runs import SUMMARY

    folder = runs_dir() / record.name
    executed = [stage for stage, result in record.stages.items() if not result.cached]
    print()
    summary = json.loads((folder / SUMMARY).read_text())
    print(text_table({**summary, "stages": {stage: summary["stages"][stage] for stage in OUTPUT_OF_STAGE}}))
    print(f"\nexecuted now: {', '.join(executed) or 'nothing, every stage was cached'}")
    for line in versions(folder):
        print(line)
    print_places(folder, "report.html", SUMMARY)


def versions(folder: Path) -> list[str]:
    """One line per registered model version."""
    from steps.register import REGISTERED

    lines = []
    for r in json.loads((folder / REGISTERED).read_text()):
        news = "" if r["created"] else ", unchanged"
        lines.append(f"registered:  {r['name']} version {r['version']} ({', '.join(r['aliases'])}){news}")
    return lines


def list_runs(arguments: argparse.Namespace) -> int:
    """Table of all runs, oldest first."""
    prepare()
    from pipelines.runs import list_runs as all_runs

    records = all_runs()
    if not records:
        print("no runs yet; 'make run' makes the first")
    for r in records:
        executed = sum(not s.cached for s in r.stages.values())
        state = f"{executed} of {len(r.stages)} stages executed" if r.finished else "unfinished"
        print(f"{r.name:<18} {r.started:<26} {r.revision[:12]}{'+dirty' if 'dirty' in r.revision else '':<7} {state}")
    return 0


def compare_runs(arguments: argparse.Namespace) -> int:
    """What differs between runs, and their models' scores image by image."""
    prepare()
    from pipelines.compared import mlflow_link, paired_scores, text
    from pipelines.runs import compare

    names = [arguments.a, arguments.b, *arguments.more]
    differences, paired, link = compare(*names), paired_scores(names), mlflow_link(names)
    if arguments.json:
        scores = [found.model_dump(mode="json") for found in paired]
        print(json.dumps({"runs": names, "differences": differences, "paired": scores, "mlflow": link}, indent=1))
        return 0
    print(text(names, differences, paired))
    if link:
        print(f"\nin MLflow ('make ui'): {link}")
    return 0


def reproduce_run(arguments: argparse.Namespace) -> int:
    """Repeat a run from its revision; 0 when every digest is equal."""
    prepare()
    from pipelines.reproduce import reproduce

    return reproduce(arguments.run, Path(arguments.workdir) if arguments.workdir else None)


def promote(arguments: argparse.Namespace) -> int:
    """The gate between challenger and champion."""
    prepare(arguments.debug)
    from pipelines.registry_cli import promote as ask

    return ask(arguments)


def rollback(arguments: argparse.Namespace) -> int:
    """The previous champion again."""
    prepare(arguments.debug)
    from pipelines.registry_cli import rollback as undo

    return undo(arguments)


def list_models(arguments: argparse.Namespace) -> int:
    """Registered versions with aliases and verdicts."""
    prepare(arguments.debug)
    from pipelines.registry_cli import list_models as every

    return every(arguments)


def model_card(arguments: argparse.Namespace) -> int:
    """The card of a registered version."""
    prepare(arguments.debug)
    from pipelines.registry_cli import model_card as card

    return card(arguments)


def search(arguments: argparse.Namespace) -> int:
    """Reward-guided generation."""
    root = prepare(arguments.debug)
    from pipelines.mitigation_cli import search as find

    return find(arguments, root)


def correct_benchmark(arguments: argparse.Namespace) -> int:
    """The correction loop on the primary benchmark."""
    root = prepare(arguments.debug)
    from pipelines.mitigation_cli import correct_benchmark as correct

    return correct(arguments, root)


def audit(arguments: argparse.Namespace) -> int:
    """Rates of artifacts in what generators draw."""
    root = prepare(arguments.debug)
    from pipelines.mitigation_cli import audit as look

    return look(arguments, root)


def register_pinned(arguments: argparse.Namespace) -> int:
    """The stack of this host."""
    prepare(arguments.debug)
    from pipelines.pinned.stack import register

    settings = {"cpu_steps": arguments.cpu_steps, "preload": arguments.preload}
    given = {key: value for key, value in settings.items() if value is not None}
    name = register(arguments.devices, arguments.name, **given)
    print(f"stack {name}: registered; use it with: artiagent run --config ... --stack {name}")
    return 0


def pinned_devices(arguments: argparse.Namespace) -> int:
    """A line per device and what has it."""
    from pipelines.pinned.leases import device_names, holders

    for device, holder in holders(device_names(arguments.devices)).items():
        print(f"{device:<12} {holder or 'free'}")
    return 0


def register_nodes(arguments: argparse.Namespace) -> int:
    """A step operator that starts several pods."""
    prepare(arguments.debug)
    from pipelines.nodes.stack import register

    own = register(arguments.name)
    print(f"stack {arguments.name}: step operator {own}; fine-tune on several machines with sft.nodes above 1")
    return 0


def kubeflow_export(arguments: argparse.Namespace) -> int:
    """KFP IR YAML of the chain."""
    from pipelines.kubeflow.cli import export

    return export(arguments)


def kubeflow_submit(arguments: argparse.Namespace) -> int:
    """A run of an exported pipeline."""
    from pipelines.kubeflow.cli import submit

    return submit(arguments)


def ui(arguments: argparse.Namespace) -> int:
    """MLflow and the ZenML dashboard in the foreground."""
    prepare()
    from pipelines.ui import serve

    return serve(arguments.mlflow_port, arguments.zenml_port)


def _near(folder: Path) -> Path:
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
