"""``artiagent finetune``: any base model on any version of the data, without ZenML; and its rehearsal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artiagent.orchestration import open_model

if TYPE_CHECKING:
    from artiagent.config import Config
    from artiagent.records import DatasetRef

Add = Callable[..., argparse.ArgumentParser]
EXAMPLES = """examples:
  artiagent finetune --data my/conversations --out my/tuned
  artiagent finetune --data 1a2b3c4d --scenes my/scenes --out my/tuned
  artiagent finetune --config configs/single_gpu.yaml --data 1a2b3c4d --model Qwen/Qwen2.5-VL-7B-Instruct --out my/tuned
  artiagent finetune --config configs/single_gpu.yaml --data my/curated --scenes my/scenes --out my/tuned \\
      --model OpenGVLab/InternVL3_5-8B-HF --set sft.lora_rank=64 --set sft.save_steps=100
  artiagent finetune --config configs/paper.yaml --data 1a2b3c4d --out my/tuned --set sft.processes=8

The data is a set of conversations, or a curated set (see 'artiagent data list') of which conversations are made. Killed
or interrupted, the same command goes on from the last checkpoint. Families: Qwen2.5-VL, Qwen3-VL, InternVL (-HF).
"""
REHEARSAL = """examples:
  artiagent rehearse finetune --model qwen2.5-vl-7b --method lora --pixels 262144 --batch-pairs 4
  artiagent rehearse finetune --model qwen2.5-vl-7b --method full --stage language --batch-pairs 1 --out rehearsal.json
  artiagent rehearse finetune --model internvl3.5-8b --depth 0.1 --device cpu --batch-pairs 1 --steps 2

The architecture has its full size and random weights, so that nothing needs to be downloaded. With --depth part of the
layers is built, and the missing ones are extrapolated.
"""


def add_commands(commands: argparse._SubParsersAction, add: Add, config_options: Callable) -> None:
    """``finetune`` with its options."""
    tune = add(commands, "finetune", "fine-tune a vision-language model on a version of the data; resumes", finetune)
    tune.epilog, tune.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    config_options(tune)
    tune.add_argument(
        "--data", "--conversations", "--curated", dest="data", required=True, metavar="SET",
        help="folder of conversations or of a curated set, or the beginning of its digest",
    )  # fmt: skip
    tune.add_argument("--scenes", metavar="SET", help="scenes behind a curated set; default: those it was made from")
    tune.add_argument("--model", metavar="MODEL", help="folder, hub id or models:/NAME@ALIAS; default: inputs.vlm")
    tune.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the tuned model; resumes")


def add_rehearsal(kinds: argparse._SubParsersAction, add: Add) -> None:
    """``rehearse finetune`` with its options."""
    made = add(kinds, "finetune", "samples per second, memory and hours of fine-tuning, without weights", rehearse)
    made.epilog, made.formatter_class = REHEARSAL, argparse.RawDescriptionHelpFormatter
    made.add_argument(
        "--model", required=True, metavar="NAME", help="qwen2.5-vl-7b, qwen2.5-vl-3b, qwen3-vl-8b, internvl3.5-8b, nano"
    )
    made.add_argument("--method", choices=("lora", "full"), default="lora", help="default %(default)s")
    made.add_argument(
        "--stage", choices=("language", "vision"), default="language",
        help="language: the vision encoder is frozen; vision: all is trained (default %(default)s)",
    )  # fmt: skip
    made.add_argument("--pixels", type=int, default=262_144, help="of an image, at most (default %(default)s)")
    made.add_argument("--batch-pairs", type=int, default=4, help="pairs of images in a batch (default %(default)s)")
    made.add_argument("--lora-rank", type=int, default=16, help="default %(default)s")
    made.add_argument("--steps", type=int, default=5, help="optimizer steps that are timed (default %(default)s)")
    made.add_argument("--depth", type=float, default=1.0, help="build this share of the layers, and extrapolate")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default %(default)s)")
    made.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of the weights")
    made.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    made.add_argument("--samples", type=int, default=100_000, help="to project for (default %(default)s)")
    made.add_argument("--out", type=Path, metavar="FILE.json", help="write the whole report there")


def finetune(arguments: argparse.Namespace) -> int:
    """Make conversations where they are missing, fine-tune, say what came of it and where it lies."""
    from artiagent.run_config import load_config

    config = load_config(arguments.config, arguments.set)
    conversations = find_conversations(config, arguments.data, arguments.scenes)
    base = open_model(arguments.model or config.inputs.vlm)

    from artiagent.learning.export import ADAPTER
    from artiagent.learning.sft import finetune as train
    from artiagent.learning.stages import CURVES

    tuned = train(config.sft, conversations, base, arguments.out)
    folder = Path(tuned.uri)
    print(curve_table(json.loads((folder / CURVES).read_text())))
    print(f"\nmodel and processor  {folder}")
    if (folder / ADAPTER).is_dir():
        print(f"adapter              {folder / ADAPTER}")
    print(f"curves               {folder / CURVES}\nsha256               {tuned.sha256}")
    return 0


def find_conversations(config: Config, data: str, scenes: str | None) -> DatasetRef:
    """The set of conversations that is meant, or those made of the curated set that is meant.

    Raises ValueError when scenes are needed and none can be found.
    """
    from artiagent.dataset.known import resolve
    from artiagent.instruction.conversations import build_conversations
    from artiagent.store import dataset_dir

    source = resolve(data, ("conversations", "curated"))
    if source.kind == "conversations":
        if scenes:
            raise ValueError(f"--scenes: {data} is a set of conversations already; leave --scenes out")
        return source
    origins = dict(part.split(":") for part in str(source.summary.get("lineage.data", "")).split() if ":" in part)
    if not (wanted := scenes or origins.get("scenes")):
        raise ValueError(f"{data}: a curated set that does not say from which scenes it was made; add --scenes DIR")
    found = resolve(wanted, ("scenes",))
    section = config.instruction
    out = dataset_dir("conversations", section.digest(), source.digest, found.digest)
    return build_conversations(section, source, found, out)


def curve_table(points: list[dict[str, Any]]) -> str:
    """First and last loss of every stage, and what is held out."""
    row = "{:<12}{:>6}{:>18}{:>14}{:>13}{:>15}"
    lines = [row.format("stage", "steps", "loss", "tokens right", "pairs right", "held-out loss")]
    for stage in dict.fromkeys(point["stage"] for point in points):
        own = [point for point in points if point["stage"] == stage]
        losses = [point["loss"] for point in own if "loss" in point]
        last = {name: value for point in own for name, value in point.items()}
        cells = [stage, last["step"], f"{losses[0]:.3f} -> {losses[-1]:.3f}" if losses else "-"]
        names = ("mean_token_accuracy", "pair_accuracy", "eval_loss")
        cells += [f"{last[name]:.3f}" if name in last else "-" for name in names]
        lines.append(row.format(*cells))
    return "\n".join(lines)


def rehearse(arguments: argparse.Namespace) -> int:
    """Take a few steps on random images on this machine and report what they cost."""
    from artiagent.learning.rehearsal import Rehearsal, table
    from artiagent.learning.rehearsal import rehearse as measure
    from artiagent.store import write_atomic

    asked = Rehearsal(
        model=arguments.model, method=arguments.method, stage=arguments.stage, pixels=arguments.pixels,
        batch_pairs=arguments.batch_pairs, lora_rank=arguments.lora_rank, steps=arguments.steps, depth=arguments.depth,
        device=arguments.device, dtype=arguments.dtype, checkpointing=not arguments.no_checkpointing,
        samples=arguments.samples,
    )  # fmt: skip
    report = measure(asked)
    print(table(report))
    if arguments.out:
        write_atomic(arguments.out, json.dumps(report, indent=1).encode())
        print(f"\n{arguments.out}")
    return 0
