"""What fine-tuning leaves: a full model folder that loads without PEFT, and all that says what it was made from.

    config.json, *.safetensors, processor files   the model, adapters merged into it
    adapter/                                      of a LoRA: weights and configuration
    training.json                                 the curves of all stages
    finetune.json                                 base, family, data, configuration, and the stamp of all of them

No path of this machine and no time enters the folder: equal inputs give an equal digest.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel

from artiagent.checkpoints import checkpoint_ref, model_name
from artiagent.config import SftSection
from artiagent.devices import torch_dtype
from artiagent.learning.family import family_of
from artiagent.learning.stages import CURVES, load_model, mixed_precision
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.sealed import STAGES
from artiagent.store import write_atomic

STAMP, ADAPTER = "finetune.json", "adapter"


def export(section: SftSection, base: CheckpointRef, weights: Path, out: Path) -> None:
    """Write the full model with its processor into ``out``, for a LoRA the adapter as well."""
    dtype = torch_dtype(section.dtype)
    if section.method == "lora":
        merged = PeftModel.from_pretrained(load_model(Path(base.uri), dtype), weights).merge_and_unload()
        _keep_adapter(weights, out / ADAPTER, base)
    else:
        merged = load_model(weights, dtype)
    merged.save_pretrained(out)
    family_of(base.uri).load_processor(base.uri, section.image_pixels).save_pretrained(out)


def seal_export(
    section: SftSection, conversations: DatasetRef, base: CheckpointRef, out: Path, stamp: str, curves: list[Any]
) -> None:
    """The curves, then ``finetune.json``, which says that the folder is complete."""
    write_atomic(out / CURVES, json.dumps(curves, indent=1).encode())
    made = {
        "stamp": stamp,
        "family": family_of(base.uri).name,
        "base": {"name": base.name, "model": model_name(base.uri), "sha256": base.sha256},
        "data": {"kind": conversations.kind, "digest": conversations.digest, "rows": conversations.rows},
        "bfloat16": mixed_precision(section),
        "section": section.model_dump(mode="json"),
    }
    write_atomic(out / STAMP, json.dumps(made, indent=1).encode())


def exported(
    out: Path, stamp: str, base: CheckpointRef, figures: dict[str, float | int | str] | None = None
) -> CheckpointRef:
    """Reference of a complete folder; what is left of the stages is removed. Raises ValueError for another's."""
    found = json.loads((out / STAMP).read_text())["stamp"]
    if found != stamp:
        raise ValueError(
            f"{out}: holds a model made from other inputs ({found[:12]}, expected {stamp[:12]}); use another folder"
        )
    shutil.rmtree(out / STAGES, ignore_errors=True)
    curves = json.loads((out / CURVES).read_text())
    last = {name: value for point in curves for name, value in point.items() if name != "stage"}
    ref = checkpoint_ref("tuned", str(out))
    return ref.model_copy(update={"base_sha256": base.sha256, "summary": {**last, **(figures or {})}})


def _keep_adapter(weights: Path, folder: Path, base: CheckpointRef) -> None:
    """Weights and configuration; the base by name, because a machine's path must not enter the folder's digest."""
    config = json.loads((weights / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = model_name(base.uri)
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set: another order in every process
    write_atomic(folder / "adapter_config.json", json.dumps(config, indent=1, sort_keys=True).encode())
    shutil.copyfile(weights / "adapter_model.safetensors", folder / "adapter_model.safetensors")
