"""The command line. Knows arguments and messages; every command imports what it needs when it is called."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import pipelines_command

if TYPE_CHECKING:
    from artiagent.records import DatasetRef

AREAS = (
    "curation", "learning", "evaluation", "leaderboard", "promotion", "inspection", "serving", "studies",
    "mitigation.search", "mitigation.correction", "mitigation.audit", "scale",
)  # fmt: skip
NANO = "configs/nano.yaml"
EXAMPLES = """examples:
  artiagent run --config configs/nano.yaml
  artiagent run --config configs/nano.yaml --set synthesis.steps=8 --set planning.variants=2
  artiagent run --images photos/ --annotations parts.json
  artiagent synthesize --images photos/ --annotations parts.json --out pairs/
  artiagent synthesize --scenes my/scenes --jobs my/jobs --out my/pairs --shard 0/4
  artiagent finetune --data 1a2b3c4d --out my/tuned
  artiagent evaluate --model models:/artiagent-vlm-nano@champion
  artiagent evaluate --model openai:gpt-4o --set evaluation.prompts=defined
  artiagent leaderboard --strips 12
  artiagent promote --dry-run
  artiagent inspect pictures/ --format coco --out findings/
  artiagent serve --port 8000
  artiagent search --prompts prompts.txt
  artiagent fix pictures/ --out fixed/
  artiagent audit --generator renders/a --generator renders/b
  artiagent stack pinned --devices 0,1,2,3
  artiagent kubeflow export --config configs/paper.yaml --registry registry.example.org/team --out pipeline.yaml
  artiagent runs compare nano-1a2b3c4d nano-5e6f7a8b
  artiagent data export 1a2b3c4d --format coco --out coco/
  artiagent ablate --rows positions-only,values-only
  artiagent rehearse synthesis --backbone flux-dev --size 1024
  artiagent plan --config configs/paper.yaml --gpus 64xH100
"""
ABLATION = """examples:
  artiagent ablate
  artiagent ablate --rows positions-only,values-only
  artiagent ablate --no-detect
  artiagent ablate --set inputs.sets.0.limit=12 --set ablation.reconstruction.sources=4
  artiagent ablate --set synthesis.steps=15 --set sft.seed=1

A row is a name, what it sets, and whether it ends with a detection score; see the file. The reference row always runs.
Again, with a row changed or added, only what is new is done.
"""
REHEARSAL = """examples:
  artiagent rehearse synthesis --backbone flux-dev --size 1024
  artiagent rehearse synthesis --backbone flux-dev --size 1024 --compile --pairs 100000 --out rehearsal.json
  artiagent rehearse synthesis --backbone qwen-image --preset paper --set synthesis.quantize=int8
  artiagent rehearse synthesis --backbone flux-dev --size 256 --depth 0.05 --device cpu
  artiagent rehearse synthesis --backbone black-forest-labs/FLUX.1-schnell --size 512

A named backbone has its full size and random weights, so that nothing needs to be downloaded; a folder or hub id has
its own. What a source costs then is measured by rendering one.
"""
SHARDS = """--scenes and --jobs render a plan that is there, all of it or a shard, here or on several machines at once:

  artiagent synthesize --images photos/ --annotations parts.json --out my --until jobs
  artiagent synthesize --scenes my/scenes --jobs my/jobs --out my/pairs --shard 0/4    # and 1/4, 2/4, 3/4
  artiagent synthesize --scenes my/scenes --jobs my/jobs --out my/pairs                # what is missing, and the end
  artiagent synthesize --images photos/ --annotations parts.json --out my              # or this: curation as well

Every call resumes; give all of them the same --config, --set and --generator. The pixels do not depend on N.
"""
Command = Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> int:
    """Parse and dispatch. Exit codes: 0 done, 1 a check failed, 2 wrong input, 3 some input could not be read, 130
    interrupted."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError) as error:
        if arguments.debug:
            raise
        message = str(error).strip() or type(error).__name__
        print(f"artiagent: {message}", file=sys.stderr)
        return 2


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(
        prog="artiagent", description="Inject artifacts, curate them, learn from them, measure what was learnt.",
        epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _run_parser(commands)
    _ablate_parser(commands)
    _library_parsers(commands)
    _area_parsers(commands)
    _rehearse_parser(commands)
    _runs_parser(commands)
    _data_parser(commands)
    _nano_parser(commands)
    _elsewhere_parsers(commands)
    ui = _add(commands, "ui", "MLflow and the ZenML dashboard on 127.0.0.1 until Ctrl-C", pipelines_command("ui"))
    ui.add_argument("--mlflow-port", type=int, default=5000)
    ui.add_argument("--zenml-port", type=int, default=8237)
    checked = _add(
        commands,
        "doctor",
        "device, weights, remotes, credentials, versions; exit code 1 when something is missing",
        doctor,
    )
    _config_options(checked)
    return top


def _run_parser(commands: argparse._SubParsersAction) -> None:
    run = _add(commands, "run", "the whole chain as a ZenML pipeline, tracked and registered", pipelines_command("run"))
    _config_options(run)
    _image_options(run)
    run.add_argument(
        "--stack", metavar="NAME", help="ZenML stack to run on (see infra/stacks/); default: the active one"
    )
    run.add_argument(
        "--acknowledge-noncommercial", action="store_true", help="publish material that is not free for commercial use"
    )


def _ablate_parser(commands: argparse._SubParsersAction) -> None:
    ablate = _add(
        commands, "ablate", "variants of one chain side by side: a table, charts, a report", pipelines_command("ablate")
    )
    ablate.epilog, ablate.formatter_class = ABLATION, argparse.RawDescriptionHelpFormatter
    _config_options(ablate, "configs/ablation.yaml")
    ablate.add_argument("--rows", metavar="NAME,NAME", help="only these rows, and the reference")
    ablate.add_argument("--no-detect", action="store_true", help="no fine-tuning, no detection scores: half the time")
    ablate.add_argument("--stack", metavar="NAME", help="ZenML stack to run on; default: the active one")


def _library_parsers(commands: argparse._SubParsersAction) -> None:
    make = _add(commands, "synthesize", "perception to curation without ZenML, into a folder of your own", synthesize)
    make.epilog, make.formatter_class = SHARDS, argparse.RawDescriptionHelpFormatter
    _config_options(make)
    _image_options(make)
    make.add_argument("--out", type=Path, required=True, help="folder for scenes, jobs, pairs and curated; resumes")
    make.add_argument("--until", choices=("jobs",), help="stop when the plan is made")
    make.add_argument("--scenes", type=Path, metavar="DIR", help="render from this scene set; with --jobs")
    make.add_argument("--jobs", type=Path, metavar="DIR", help="render this plan, pairs into --out; with --scenes")
    make.add_argument("--generator", metavar="FOLDER", help="model folder or hub id; default: the configuration's")
    make.add_argument("--shard", metavar="I/N", help="render one of N equal pieces of --jobs, I from 0")
    sheets = _add(commands, "blind", "sheets for a blind judgement of accepted pairs, and its score", blind)
    sheets.add_argument("--curated", type=Path, help="folder of a curated data set to draw from")
    sheets.add_argument("--out", type=Path, required=True, help="folder for the sheets and key.json")
    sheets.add_argument("--per-tool", type=int, default=10)
    sheets.add_argument("--seed", type=int, default=0)
    sheets.add_argument(
        "--verdicts", type=Path, help='score this file instead: {"1": {"side": "left", "type": "omission"}, ...}'
    )


def _area_parsers(commands: argparse._SubParsersAction) -> None:
    """Commands that are defined beside what they call."""
    for area in AREAS:
        import_module(f"artiagent.{area}.cli").add_commands(commands, _add, _config_options)


def _rehearse_parser(commands: argparse._SubParsersAction) -> None:
    kinds = commands.add_parser("rehearse", help="what a run costs on this machine").add_subparsers(required=True)
    made = _add(kinds, "synthesis", "seconds, memory and device-hours of a pair, measured without weights", rehearse)
    made.epilog, made.formatter_class = REHEARSAL, argparse.RawDescriptionHelpFormatter
    made.add_argument(
        "--backbone", required=True, metavar="NAME",
        help="flux-dev, flux-schnell, qwen-image, tiny-flux or tiny-qwen-image; or a pipeline folder or hub id",
    )  # fmt: skip
    made.add_argument("--size", type=int, default=1024, help="side of the image in pixels (default %(default)s)")
    made.add_argument("--preset", choices=("fast", "paper"), default="fast", help="of synthesis (default %(default)s)")
    made.add_argument("--compile", action="store_true", help="torch.compile of the blocks")
    made.add_argument("--variants", type=int, default=4, help="artifact images per source (default %(default)s)")
    made.add_argument(
        "--region", type=float, default=0.15, help="share of the image that a variant's region covers (default 0.15)"
    )
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default %(default)s)")
    made.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    made.add_argument("--pairs", type=int, default=100_000, help="accepted pairs to project for (default %(default)s)")
    made.add_argument("--acceptance", type=float, default=0.85, help="share of the pairs that curation accepts")
    made.add_argument("--depth", type=float, default=1.0, help="build this share of the blocks, and extrapolate")
    made.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. synthesis.steps=8; repeatable"
    )
    made.add_argument("--out", type=Path, metavar="FILE.json", help="write the whole report there")
    import_module("artiagent.learning.cli").add_rehearsal(kinds, _add)


def _elsewhere_parsers(commands: argparse._SubParsersAction) -> None:
    stack = commands.add_parser("stack", help="ZenML stacks of hosts and clusters").add_subparsers(required=True)
    pinned = _add(
        stack, "pinned", "register this host: a process and devices of its own for every step; may be repeated",
        pipelines_command("register_pinned"),
    )  # fmt: skip
    pinned.add_argument(
        "--devices", metavar="A,B", help="as CUDA_VISIBLE_DEVICES takes them; default 0 to 7; '' for none"
    )
    pinned.add_argument("--name", default="", help="of the stack (default artiagent-pinned)")
    pinned.add_argument("--cpu-steps", type=int, metavar="N", help="steps without a device side by side (default 2)")
    pinned.add_argument("--preload", metavar="A,B", help="modules that are imported once for all steps")
    devices = _add(stack, "devices", "who has which device of a pinned stack now", pipelines_command("pinned_devices"))
    devices.add_argument("devices", metavar="A,B")
    nodes = _add(
        stack, "nodes", "let a Kubernetes stack fine-tune on several machines (sft.nodes)",
        pipelines_command("register_nodes"),
    )  # fmt: skip
    nodes.add_argument("name", help="of the stack, e.g. artiagent-kubernetes")
    kubeflow = commands.add_parser("kubeflow", help="the chain as a Kubeflow pipeline").add_subparsers(required=True)
    export = _add(kubeflow, "export", "compile the chain to KFP IR YAML, offline", pipelines_command("kubeflow_export"))
    _config_options(export)
    submit = _add(kubeflow, "submit", "start an exported pipeline", pipelines_command("kubeflow_submit"))
    options = import_module("pipelines.kubeflow.options")
    options.export_options(export)
    options.submit_options(submit)


def _runs_parser(commands: argparse._SubParsersAction) -> None:
    runs = commands.add_parser("runs", help="list, compare or reproduce runs").add_subparsers(required=True)
    _add(runs, "list", "all runs, oldest first", pipelines_command("list_runs"))
    compare = _add(runs, "compare", "what differs between two runs", pipelines_command("compare_runs"))
    compare.add_argument("a")
    compare.add_argument("b")
    compare.add_argument("more", nargs="*", metavar="RUN", help="further runs, each against the first")
    compare.add_argument("--json", action="store_true", help="print all of it as JSON")
    again = _add(
        runs,
        "reproduce",
        "repeat a run from revision, lock, data; compare digests",
        pipelines_command("reproduce_run"),
    )
    again.add_argument("run")
    again.add_argument("--workdir", metavar="DIR", help="keep the work tree and the new run there")


def _data_parser(commands: argparse._SubParsersAction) -> None:
    from artiagent.dataset.cli import add_commands

    data = commands.add_parser("data", help="curated sets: list, card, export, differences, publish, pull, garbage")
    add_commands(data.add_subparsers(required=True, metavar="COMMAND"), _add)


def _nano_parser(commands: argparse._SubParsersAction) -> None:
    from artiagent.nano.cli import add_commands

    nano = commands.add_parser("nano", help="make and measure the embedded world: models, scenes, benchmark, studies")
    add_commands(nano.add_subparsers(required=True, metavar="COMMAND"), _add, _config_options)


def _add(
    commands: argparse._SubParsersAction, name: str, text: str, command: Command, add_help: bool = True
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=text, description=text, add_help=add_help)
    made.add_argument("--debug", action="store_true", help="full traceback and ZenML's own log")
    made.set_defaults(command=command)
    return made


def _config_options(to: argparse.ArgumentParser, default: str = NANO) -> None:
    to.add_argument("--config", type=_config_path, default=default, help=f"run configuration (default {default})")
    to.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. synthesis.steps=8; repeatable"
    )


def _config_path(text: str) -> Path:
    inside = Path(__file__).resolve().parent.parent / text
    return inside if not Path(text).is_file() and inside.is_file() else Path(text)


def _image_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("--images", metavar="DIR", help="your own images: a folder or a Parquet file (file_name, image)")
    to.add_argument("--annotations", metavar="COCO.json", help="their part annotations in COCO format")


def synthesize(arguments: argparse.Namespace) -> int:
    """Perceive, plan, synthesize, curate into ``--out``, or render a plan that is there; every part resumes."""
    if arguments.scenes or arguments.jobs or arguments.shard is not None:
        return _render(arguments)
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.curation.stage import curate
    from artiagent.perception.stage import perceive
    from artiagent.run_config import effective_config
    from artiagent.settle import settle
    from artiagent.synthesis.planner import plan
    from artiagent.synthesis.stage import synthesize as make_pairs

    config, notes = settle(effective_config(arguments.config, arguments.set, arguments.images, arguments.annotations))
    print(*notes, sep="\n", end="\n" if notes else "")
    generator = checkpoint_ref("generator", arguments.generator or config.inputs.generator)
    judge = checkpoint_ref("vlm", config.inputs.vlm)
    out = _stamped(arguments.out, config.digest())
    scenes = perceive(config.perception, config.inputs.sets, out / "scenes", judge)
    jobs = plan(config.planning, scenes, config.perception.patch, out / "jobs")
    if arguments.until == "jobs":
        return _print_refs(scenes, jobs)
    pairs = make_pairs(config.synthesis, scenes, jobs, generator, out / "pairs")
    curated = curate(config.curation, pairs, scenes, judge, out / "curated")
    _print_refs(scenes, jobs, pairs, curated)
    print(f"funnel    {out / 'curated' / 'funnel.json'}")
    return 0


def _render(arguments: argparse.Namespace) -> int:
    """Render a plan that is there already, or a shard of it."""
    if not (arguments.scenes and arguments.jobs):
        raise ValueError("--scenes, --jobs and --shard render a plan that is there: give --scenes and --jobs")
    if arguments.images or arguments.annotations or arguments.until:
        raise ValueError("--images, --annotations and --until make a plan, --scenes and --jobs render one: give either")
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.run_config import load_config
    from artiagent.shards import Shard

    shard = None if arguments.shard is None else Shard.parse(arguments.shard)

    config = load_config(arguments.config, arguments.set)
    scenes, jobs = _dataset(arguments.scenes, "scenes"), _dataset(arguments.jobs, "jobs")
    generator = checkpoint_ref("generator", arguments.generator or config.inputs.generator)

    from artiagent.synthesis.stage import synthesize as make_pairs

    pairs = make_pairs(config.synthesis, scenes, jobs, generator, arguments.out, shard)
    if shard is not None:
        print(f"shard {shard} is rendered; the call without --shard finishes {arguments.out}")
        return 0
    return _print_refs(pairs)


def _dataset(folder: Path, kind: str) -> DatasetRef:
    from artiagent.store import open_dataset

    if (ref := open_dataset(folder)) is None or ref.kind != kind:
        found = f"a set of {ref.kind}" if ref else "no complete data set"
        raise ValueError(f"{folder}: {found}, expected {kind}; 'artiagent synthesize --until jobs' makes them")
    return ref


def _print_refs(*refs: DatasetRef) -> int:
    for ref in refs:
        print(f"{ref.kind:<9} {ref.rows:>6} rows  {Path(ref.uri)}")
        if failed := ref.summary.get("failed_sources"):
            print(f"failed    {failed:>6} sources: {Path(ref.uri) / 'failures.json'}")
    return 0


def _stamped(out: Path, digest: str) -> Path:
    """Refuse a folder that was made with another configuration: its parts would not fit together."""
    from artiagent.store import write_atomic

    stamp = out / "config.digest"
    if stamp.is_file() and stamp.read_text() != digest:
        raise ValueError(f"{out}: was made with another configuration; choose another --out or delete it")
    write_atomic(stamp, digest.encode())
    return out


def blind(arguments: argparse.Namespace) -> int:
    """Write the sheets, or score the verdicts of whoever looked at them."""
    from artiagent.report.blind import KEY, score_verdicts, write_sheets

    if arguments.verdicts is not None:
        key, verdicts = (json.loads(path.read_text()) for path in (arguments.out / KEY, arguments.verdicts))
        print(json.dumps(score_verdicts(key, verdicts), indent=1))
        return 0
    if arguments.curated is None:
        raise ValueError("--curated is missing: name the data set to draw from, or --verdicts to score")
    for sheet in write_sheets(arguments.curated, arguments.out, per_tool=arguments.per_tool, seed=arguments.seed):
        print(sheet)
    return 0


def rehearse(arguments: argparse.Namespace) -> int:
    """Render one random image on this machine and report what it cost."""
    from artiagent.store import write_atomic
    from artiagent.synthesis.rehearsal import Rehearsal, synthesis_section, table
    from artiagent.synthesis.rehearsal import rehearse as measure

    section = synthesis_section(
        arguments.preset, arguments.set, device=arguments.device, dtype=arguments.dtype,
        compile="blocks" if arguments.compile else "none",
    )  # fmt: skip
    asked = Rehearsal(
        arguments.backbone, arguments.size, arguments.variants, arguments.region, arguments.depth, arguments.pairs,
        arguments.acceptance,
    )  # fmt: skip
    report = measure(asked, section)
    print(table(report))
    if arguments.out:
        write_atomic(arguments.out, json.dumps(report, indent=1).encode())
        print(f"\n{arguments.out}")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Check this machine; see ``artiagent.doctor``."""
    from artiagent.doctor import examine
    from artiagent.run_config import load_config

    return examine(load_config(arguments.config, arguments.set))


if __name__ == "__main__":
    sys.exit(main())
