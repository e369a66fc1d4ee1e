"""``artiagent inspect``: what a promoted model says about a person's own images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import open_model

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.inspection.findings import Asking
    from artiagent.records import CheckpointRef

UNREAD = 3  # exit code: something could not be read; the rest is done
FORMS = ("parquet", "csv", "json", "coco")
EXAMPLES = """examples:
  artiagent inspect picture.png --json
  artiagent inspect photos/                                # into photos-inspected/
  artiagent inspect photos/ --out found --format coco --annotated found/drawn
  artiagent inspect images.parquet --threshold 0.8 --model models:/artiagent-vlm-nano@challenger
  artiagent inspect photos/ --server http://127.0.0.1:8000

A folder or Parquet file gives results.parquet (or .csv, .json, coco.json), summary.json and gallery.html. The same
command again goes on where it was stopped, or writes another form without asking anew.
Exit code 3: something could not be read; see summary.json. Everything else was inspected.
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    look = add(commands, "inspect", "verdict, boxes and explanation for one image or many", inspect)
    look.epilog, look.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    look.add_argument("image", type=Path, help="image, folder of images, or Parquet file (column image)")
    config_options(look)
    look.add_argument("--model", help="model folder or models:/ uri; default: the profile's champion")
    look.add_argument("--server", metavar="URL", help="ask a served model; --model then only says its coordinates")
    look.add_argument(
        "--out", type=Path,
        help="of one image: annotated copy, default <image>-inspected.png here; else: folder, default <name>-inspected",
    )  # fmt: skip
    look.add_argument("--format", choices=FORMS, help="of the results of many images (default parquet)")
    look.add_argument("--annotated", type=Path, metavar="DIR", help="copies of the flagged images, boxes drawn in")
    look.add_argument("--threshold", type=float, default=0.5, help="P(Yes) that makes a verdict (default %(default)s)")
    look.add_argument("--json", action="store_true", help="print the result (of many images: the summary) as JSON")


def inspect(arguments: argparse.Namespace) -> int:
    """Ask a model about one image, or about all images of a folder or Parquet file."""
    from artiagent.inspection.findings import Asking
    from artiagent.inspection.pictures import is_many
    from artiagent.run_config import load_config

    if not 0 <= arguments.threshold <= 1:
        raise ValueError(f"--threshold {arguments.threshold}: expected a probability, 0 to 1")
    many = is_many(arguments.image)
    if not many and (arguments.format or arguments.annotated):
        raise ValueError("--format and --annotated are for a folder or a Parquet file; one image has --out and --json")
    config = load_config(arguments.config, arguments.set)
    model, asking = _served(arguments, config) if arguments.server else (_local(arguments, config), None)
    asking = asking or Asking(config.evaluation, arguments.threshold)
    return _many(arguments, model, asking) if many else _one(arguments, model, asking)


def _local(arguments: argparse.Namespace, config: Config) -> CheckpointRef:
    return open_model(arguments.model or f"models:/{config.registry.vlm_name}@champion")


def _served(arguments: argparse.Namespace, config: Config) -> tuple[CheckpointRef, Asking]:
    """How to ask the server, and the model as far as it is known: weights are stamped only where the server's own name
    of it is the folder's or the reference's."""
    from artiagent.checkpoints import checkpoint_ref, model_name
    from artiagent.inspection.findings import Asking
    from artiagent.records import CheckpointRef
    from artiagent.serving.served import find_served

    given = open_model(arguments.model) if arguments.model else None
    served = find_served(arguments.server, config.evaluation.vlm, given.uri if given else "")
    asking = Asking(config.evaluation, arguments.threshold, served)
    name = model_name(served.model)
    if given is not None and served.model in (given.uri, given.name):
        return given, asking
    if served.folder == served.model:
        return checkpoint_ref(name, served.folder), asking
    return CheckpointRef(name=name, uri="", sha256=""), asking


def _one(arguments: argparse.Namespace, model: CheckpointRef, asking: Asking) -> int:
    from artiagent.inspection.inspect import inspect_image

    found = inspect_image(arguments.image, model, asking, arguments.out)
    if arguments.json:
        print(json.dumps({**found, "model": model.name}, indent=1))
        return 0
    score = "unknown" if found["score"] is None else f"{found['score']:.2f}"
    print(f"{found['verdict']}  (P(artifacts) = {score}, model {model.name})")
    for box in found["boxes"]:
        print(f"box {box}")
    print(f"{found['explanation'] or '(no explanation)'}\nannotated copy: {found['annotated']}")
    return 0


def _many(arguments: argparse.Namespace, model: CheckpointRef, asking: Asking) -> int:
    from artiagent.inspection.batch import in_order, inspect_many
    from artiagent.inspection.forms import stamp_of, write_results
    from artiagent.inspection.gallery import GALLERY, Summary, write_annotated, write_gallery, write_summary
    from artiagent.inspection.pictures import open_pictures

    drawn, source = arguments.annotated, arguments.image.resolve()
    out = arguments.out or Path(f"{source.stem}-inspected")
    if drawn and source.is_dir() and drawn.resolve().is_relative_to(source):
        raise ValueError(
            f"--annotated {drawn}: lies inside {source}, whose images are inspected; choose another folder"
        )
    pictures = open_pictures(arguments.image)
    answers = inspect_many(pictures, model, asking, out)
    summary = Summary()
    counted = (summary.add(one) for one in in_order(answers, pictures.names))
    results = write_results(arguments.format or FORMS[0], counted, model, asking, out)
    figures = summary.figures(pictures, stamp_of(model, asking))
    write_summary(figures, out)
    write_gallery(summary, figures, pictures, out)
    if drawn:
        write_annotated(in_order(answers, pictures.names), pictures, drawn)
    unread = figures["verdicts"]["unread"] + pictures.unreadable
    if arguments.json:
        print(json.dumps(figures, indent=1))
    else:
        counts = ", ".join(f"{count} {name}" for name, count in figures["verdicts"].items())
        print(f"{figures['images']} images: {counts}\n{results}\n{out / GALLERY}")
    if unread:
        print(f"{unread} could not be read; see {out / 'summary.json'}", file=sys.stderr)
    return UNREAD if unread else 0
