"""Curation as commands: ``curate`` runs the stage alone and takes people's decisions; ``calibrate`` measures a window.

Knows options and messages; what a command needs is imported when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from artiagent.config import Config, CurationSection
    from artiagent.records import DatasetRef

Add = Callable[..., argparse.ArgumentParser]
CURATE = """examples:
  artiagent curate --pairs my/pairs --scenes my/scenes --out my/curated
  artiagent curate --pairs my/pairs --scenes my/scenes --out my/judged --set curation.judge=views \\
      --set curation.vlm.backend=openai --set curation.vlm.model=gpt-4o
  artiagent curate --curated my/curated --review tasks.json --most 200
  artiagent curate --curated my/curated --review tasks.json --files my/review
  artiagent curate --curated my/curated --scenes my/scenes --decisions export.json --out my/reviewed

--review writes the artifacts that are closest to a limit as tasks of Label Studio, and its labelling configuration as
tasks.xml. With --files the images lie in that folder, and the tasks name them as Label Studio serves local files:
start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=my, the folder's
parent. --decisions takes the export in the format JSON; of several people the majority counts.
"""
CALIBRATE = """examples:
  artiagent calibrate --curated my/pairs --out evidence/
  artiagent nano judges --count 800 --out known/
  artiagent calibrate --curated my/pairs --known known/pairs --out evidence/
  artiagent calibrate --curated my/pairs --known known/pairs --metric lpips --out evidence/ \\
      --set curation.lpips_weights=alexnet-owt-7be5be79.pth

Writes calibration.json, calibration.html and calibration.svg. Changes nothing: set curation.ssim_window or
curation.lpips_window to what the evidence says.
"""


def add_commands(commands: argparse._SubParsersAction, add: Add, config_options: Callable) -> None:
    """Both commands with their options; `add(commands, name, help, command)` makes a parser."""
    made = add(
        commands, "curate", "curate pairs that are there; borderline cases to people, and their decisions", curate
    )
    made.epilog, made.formatter_class = CURATE, argparse.RawDescriptionHelpFormatter
    config_options(made)
    made.add_argument("--pairs", type=Path, metavar="DIR", help="pairs to curate, into --out; with --scenes")
    made.add_argument("--curated", type=Path, metavar="DIR", help="a curated set, for --review or --decisions")
    made.add_argument("--scenes", type=Path, metavar="DIR", help="the scenes that the pairs were made from")
    made.add_argument("--out", type=Path, metavar="DIR", help="folder of the new curated set; resumes")
    made.add_argument("--review", type=Path, metavar="FILE.json", help="write borderline artifacts there, as tasks")
    made.add_argument("--most", type=int, default=100, metavar="N", help="of them (default %(default)s)")
    made.add_argument("--files", type=Path, metavar="DIR", help="put the tasks' images there instead of into the file")
    made.add_argument("--decisions", type=Path, metavar="EXPORT.json", help="apply Label Studio's export to --curated")
    made = add(commands, "calibrate", "evidence for a window of the perceptual filter", calibrate)
    made.epilog, made.formatter_class = CALIBRATE, argparse.RawDescriptionHelpFormatter
    config_options(made)
    made.add_argument(
        "--curated", type=Path, required=True, metavar="DIR", help="pairs or curated pairs: injected distortions"
    )
    made.add_argument(
        "--known", type=Path, metavar="DIR", help="pairs of 'artiagent nano judges': edits of known truth"
    )
    made.add_argument("--metric", choices=("ssim", "lpips"), help="default: the configuration's")
    made.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the evidence")
    made.add_argument("--loss", type=float, default=0.02, help="faults that the lower bound may cost (default 0.02)")
    made.add_argument("--resamples", type=int, default=1000, help="bootstrap resamples (default %(default)s)")
    made.add_argument("--seed", type=int, default=0)


def curate(arguments: argparse.Namespace) -> int:
    """Curate, write tasks, or apply decisions; prints the funnel and where the report lies."""
    _check(arguments)
    from artiagent.run_config import load_config

    config = load_config(arguments.config, arguments.set)
    section = config.curation
    if arguments.decisions:
        ref = _decided(arguments, section)
    elif arguments.pairs:
        ref = _curated(arguments, config)
    else:
        ref = opened(arguments.curated, "curated")
    if arguments.review:
        from artiagent.curation.review import write_tasks

        n = write_tasks(ref, section, arguments.review, most=arguments.most, files=arguments.files)
        print(f"{n} borderline artifacts: {arguments.review}, to be labelled by {arguments.review.with_suffix('.xml')}")
    if arguments.out:
        _print_result(Path(ref.uri))
    return 0


def calibrate(arguments: argparse.Namespace) -> int:
    """Write the evidence and print what it says."""
    if not 0 <= arguments.loss < 0.5:
        raise ValueError(f"--loss {arguments.loss}: expected a share from 0 to .5")
    from artiagent.run_config import load_config

    section = load_config(arguments.config, arguments.set).curation
    section = _settled(section.model_copy(update={"metric": arguments.metric or section.metric}))
    pairs = opened(arguments.curated, "pairs", "curated")
    known = opened(arguments.known, "pairs") if arguments.known else None

    from artiagent.curation.calibration import PAGE
    from artiagent.curation.calibration import calibrate as measure

    found = measure(
        section, pairs, known, arguments.out, loss=arguments.loss, resamples=arguments.resamples, seed=arguments.seed
    )
    for kind, row in found["kinds"].items():
        shares = ", ".join(f"{name} window accepts {row[name]['value']:.2f}" for name in ("configured", "proposed"))
        print(f"{kind:<24}{row['n']:>6}   {shares}")
    print(f"{found['metric']}: {found['verdict']}\n{arguments.out / PAGE}")
    return 0


def opened(folder: Path, *kinds: str) -> DatasetRef:
    """A complete data set of one of the kinds. Raises ValueError saying what lies there instead."""
    from artiagent.store import open_dataset

    if (ref := open_dataset(folder)) is None or ref.kind not in kinds:
        found = f"a set of {ref.kind}" if ref else "no complete data set"
        raise ValueError(f"{folder}: {found}, expected {' or '.join(kinds)}; 'artiagent synthesize' makes them")
    return ref


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that do not go together."""
    if bool(arguments.pairs) == bool(arguments.curated):
        raise ValueError("give either --pairs, to curate them, or --curated, for --review or --decisions")
    if arguments.pairs and arguments.decisions:
        raise ValueError("--decisions are about a curated set: give --curated instead of --pairs")
    if arguments.curated and not (arguments.review or arguments.decisions):
        raise ValueError("--curated is curated already: give --review or --decisions")
    if (arguments.pairs or arguments.decisions) and not (arguments.scenes and arguments.out):
        raise ValueError("--scenes and --out are missing: words need the scenes, and the new set a folder")
    if arguments.review and arguments.most < 1:
        raise ValueError(f"--most {arguments.most}: expected at least 1")


def _settled(section: CurationSection) -> CurationSection:
    """The section with its metric settled; prints why it is another than asked for."""
    from artiagent.curation.perceptual import settled_metric

    section, note = settled_metric(section)
    if note:
        print(note)
    return section


def _curated(arguments: argparse.Namespace, config: Config) -> DatasetRef:
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.curation.stage import curate as run

    pairs, scenes = opened(arguments.pairs, "pairs"), opened(arguments.scenes, "scenes")
    judge = checkpoint_ref("vlm", config.inputs.vlm)
    return run(_settled(config.curation), pairs, scenes, judge, arguments.out)


def _decided(arguments: argparse.Namespace, section: CurationSection) -> DatasetRef:
    from artiagent.curation.decisions import apply_decisions, read_decisions

    decisions = read_decisions(arguments.decisions)
    curated, scenes = opened(arguments.curated, "curated"), opened(arguments.scenes, "scenes")
    ref = apply_decisions(curated, decisions, scenes, section, arguments.out)
    agreement = decisions.agreement()
    told = f", {agreement['pairs']} pairs of votes agree by {agreement['share']:.2f}" if agreement["pairs"] else ""
    print(f"{len(decisions.votes)} artifacts voted on, {len(decisions.chosen())} decided{told}")
    return ref


def _print_result(folder: Path) -> None:
    from artiagent.curation.funnel import FUNNEL
    from artiagent.report.curation import REPORT
    from artiagent.report.summary import funnel_lines, read_json

    print(*funnel_lines(read_json(folder / FUNNEL)), sep="\n")
    print(f"funnel    {folder / FUNNEL}")
    if (folder / REPORT).is_file():
        print(f"report    {folder / REPORT}")
