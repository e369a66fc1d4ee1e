"""``artiagent fix``: repaint what is wrong in a person's images, and say what was done."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from artiagent.orchestration import open_model, pipelines_command

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.mitigation.correction.panel import Models
    from artiagent.mitigation.correction.records import Correction

FIXED, NOTHING, SOME_UNREAD, NONE_PREFERRED = 0, 1, 3, 4
EPILOG = """examples:
  artiagent fix picture.png                      # picture-fixed.png, -fixed-strip.png and -fixed.json here
  artiagent fix picture.png --out better.png --rounds 5 --json
  artiagent fix photos/ --out repaired/          # images/, strips/, logs/ and summary.json; the same again resumes
  artiagent fix photos/ --inpainter black-forest-labs/FLUX.1-Fill-dev --set correction.size=1024
  artiagent fix --benchmark                      # how well it works: the profile's benchmark, as a pipeline

A repainting is applied only where the reward model and the vision-language model both prefer it; pixels outside the
repainted boxes stay as they are. Ctrl-C keeps the best so far.

exit codes:
  0    corrected (of a folder: at least one image)
  1    nothing to correct: returned unchanged
  2    wrong input; nothing was written
  3    of a folder: something could not be read, the rest is done; see summary.json
  4    artifacts were found, but no correction was preferred: returned unchanged
  130  interrupted; the best so far was written
"""


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    repair = add(commands, "fix", "repaint artifacts in one image or many; keeps only what two judges prefer", fix)
    repair.epilog, repair.formatter_class = EPILOG, argparse.RawDescriptionHelpFormatter
    repair.add_argument("image", type=Path, nargs="?", help="image, folder of images, or Parquet file (column image)")
    config_options(repair)
    repair.add_argument(
        "--stack", metavar="NAME", help="with --benchmark: ZenML stack to run on; default: the active one"
    )
    repair.add_argument("--model", help="vision-language model: folder or models:/ uri; default: the champion")
    repair.add_argument("--reward", help="reward model: folder or models:/ uri; default: the champion")
    repair.add_argument(
        "--inpainter", help="folder or hub id of a FLUX pipeline or ControlNet; default: inputs.inpainter"
    )
    repair.add_argument(
        "--out", type=Path, help="of one image: a .png, default <image>-fixed.png here; else: folder, <name>-fixed"
    )
    repair.add_argument("--overwrite", action="store_true", help="allow --out to be the input itself (a PNG)")
    repair.add_argument("--rounds", type=int, help="at most so many rounds per image (default: correction.rounds)")
    repair.add_argument("--json", action="store_true", help="print the log (of many images: the summary) as JSON")
    repair.add_argument("--benchmark", action="store_true", help="correct the primary benchmark instead, with figures")


def fix(arguments: argparse.Namespace) -> int:
    """Correct one image, all images of a folder or Parquet file, or the benchmark."""
    if arguments.benchmark:
        if arguments.image:
            raise ValueError(f"--benchmark takes its images from the configuration; leave {arguments.image} out")
        return pipelines_command("correct_benchmark")(arguments)
    if arguments.image is None:
        raise ValueError("expected an image, a folder of images or a Parquet file; or --benchmark")
    from artiagent.inspection.pictures import is_many

    many = is_many(arguments.image)
    out = _folder_out(arguments) if many else _image_out(arguments)
    config = configured(arguments)
    return _many(arguments, config, out) if many else _one(arguments, config, out)


def configured(arguments: argparse.Namespace) -> Config:
    from artiagent.run_config import load_config

    rounds = [f"correction.rounds={arguments.rounds}"] if arguments.rounds is not None else []
    return load_config(arguments.config, [*arguments.set, *rounds])


def _image_out(arguments: argparse.Namespace) -> Path:
    """Raises ValueError for a missing image, and for an output that is no PNG or would replace the input unasked."""
    image = arguments.image
    if not image.is_file():
        raise ValueError(f"{image}: no such file; expected an image, a folder of images or a Parquet file")
    out = arguments.out or (image if arguments.overwrite else Path(f"{image.stem}-fixed.png"))
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: expected a .png; a lossy form would change every pixel")
    if out.resolve() == image.resolve() and not arguments.overwrite:
        raise ValueError(f"--out {out}: is the input itself; choose another name, or --overwrite")
    return out


def _folder_out(arguments: argparse.Namespace) -> Path:
    source = arguments.image.resolve()
    if arguments.overwrite:
        raise ValueError("--overwrite is for one image; the images of a folder stay as they are")
    out = arguments.out or Path(f"{source.stem}-fixed")
    if source.is_dir() and out.resolve().is_relative_to(source):
        raise ValueError(f"--out {out}: lies inside {source}, whose images are corrected; choose another folder")
    return out


def _models(arguments: argparse.Namespace, config: Config) -> Models:
    from artiagent.checkpoints import checkpoint_ref, model_name
    from artiagent.mitigation.correction.panel import Models

    inpainter = arguments.inpainter or config.inputs.inpainter
    return Models(
        inpainter=checkpoint_ref(model_name(inpainter), inpainter),
        reward=open_model(arguments.reward or f"models:/{config.registry.reward_name}@champion"),
        vlm=open_model(arguments.model or f"models:/{config.registry.vlm_name}@champion"),
    )


def _one(arguments: argparse.Namespace, config: Config, out: Path) -> int:
    from artiagent.mitigation.correction.files import correct_file, strip_and_log
    from artiagent.mitigation.correction.panel import open_panel
    from artiagent.mitigation.correction.records import CLEAN, CORRECTED

    panel = open_panel(config.correction, config.evaluation, _models(arguments, config))
    record = correct_file(config.correction, panel, arguments.image, out)
    if arguments.json:
        print(record.model_dump_json(indent=1))
    else:
        told = f"P(artifacts) {record.verdict:.2f} -> {record.verdict_after:.2f}"
        told += f", reward {record.verifier:+.2f} -> {record.verifier_after:+.2f}"
        print(f"{_words(record)}  ({told})")
        for place in record.applied:
            print(f"repainted {' '.join(str(list(box)) for box in place.boxes)}  (found by: {place.source})")
        print("\n".join(map(str, (out, *strip_and_log(out)))))
    return FIXED if record.outcome == CORRECTED else NOTHING if record.outcome == CLEAN else NONE_PREFERRED


def _words(record: Correction) -> str:
    rounds = f"{len(record.rounds)} round{'s' if len(record.rounds) != 1 else ''}"
    return {
        "corrected": f"corrected in {rounds}",
        "clean": "nothing to correct",
        "kept": f"unchanged: none of {sum(len(turn.candidates) for turn in record.rounds)} repaintings was preferred",
    }[record.outcome]


def _many(arguments: argparse.Namespace, config: Config, out: Path) -> int:
    from artiagent.inspection.pictures import open_pictures
    from artiagent.mitigation.correction.files import SUMMARY, correct_folder
    from artiagent.mitigation.correction.panel import open_panel
    from artiagent.records import stable_hash

    pictures, models = open_pictures(arguments.image), _models(arguments, config)
    panel = open_panel(config.correction, config.evaluation, models)
    used = (ref.sha256 for ref in (models.inpainter, models.reward, models.vlm))
    stamp = stable_hash(config.correction.digest(), config.evaluation.digest(), *used, length=20)
    summary = correct_folder(config.correction, panel, pictures, out, stamp)
    unread = len(summary["unread"]) + pictures.unreadable
    if arguments.json:
        print(json.dumps(summary, indent=1))
    else:
        counts = ", ".join(f"{count} {name}" for name, count in summary["outcomes"].items())
        print(f"{summary['images']} images: {counts}\n{out / SUMMARY}")
    if unread:
        print(f"{unread} could not be read; see {out / SUMMARY}", file=sys.stderr)
        return SOME_UNREAD
    outcomes = summary["outcomes"]
    return FIXED if outcomes["corrected"] else NONE_PREFERRED if outcomes["kept"] else NOTHING
