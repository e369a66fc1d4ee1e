"""Write nano-FLUX as a folder for `FluxPipeline.from_pretrained`: float16 safetensors, replaced in one move."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxFillPipeline, FluxPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, T5TokenizerFast

from artiagent.nano.export import replacing
from artiagent.nano.flux_transformer import TextConditionedFlow

FEW_STEP = {"shift": 1.0, "use_dynamic_shifting": False}  # FLUX.1-schnell's convention: evenly spaced times


def build_scheduler(**changes: Any) -> FlowMatchEulerDiscreteScheduler:
    """Flow-matching Euler scheduler, unless `changes` say otherwise with FLUX's resolution-dependent shift."""
    dev = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256}
    return FlowMatchEulerDiscreteScheduler(**dev | changes)


def assemble(
    vae: AutoencoderKL,
    flow: TextConditionedFlow,
    clip: CLIPTokenizer,
    t5: T5TokenizerFast,
    dtype: torch.dtype,
    *,
    scheduler: FlowMatchEulerDiscreteScheduler | None = None,
    pipeline: type[FluxPipeline | FluxFillPipeline] = FluxPipeline,
) -> FluxPipeline | FluxFillPipeline:
    """A pipeline of copies in `dtype` on the CPU; the learners stay as they are. `scheduler`: by default FLUX's own."""
    parts = {
        name: copy.deepcopy(module).eval().cpu().to(dtype)
        for name, module in (
            ("vae", vae),
            ("transformer", flow.transformer),
            ("text_encoder", flow.text_encoder),
            ("text_encoder_2", flow.text_encoder_2),
        )
    }
    return pipeline(scheduler=scheduler or build_scheduler(), tokenizer=clip, tokenizer_2=t5, **parts)


def export_folder(pipeline: FluxPipeline | FluxFillPipeline, out: Path, report: dict[str, Any]) -> None:
    """Save `pipeline` and `report` (as training.json) beside `out`, then put the new folder in its place."""
    with replacing(out) as fresh:
        pipeline.save_pretrained(fresh, safe_serialization=True)
        _widen_compatibility(fresh)
        (fresh / "training.json").write_text(json.dumps(report, indent=1))


def _widen_compatibility(folder: Path) -> None:
    """Make the folder load with transformers 4 and 5 alike, in float32 unless the caller asks for another dtype.

    transformers 5 saves only tokenizer.json and the slow class names, drops the prefix of the CLIP weights, and loads
    text encoders in the stored dtype, while diffusers loads its own parts in float32: the mixture cannot run.
    """
    for name in ("text_encoder", "text_encoder_2"):
        _edit_json(folder / name / "config.json", {"dtype": "float32"})
    path = folder / "text_encoder" / "model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    _edit_json(folder / "model_index.json", {"tokenizer_2": ["transformers", "T5TokenizerFast"]})
    # transformers 4 expects a mapping in extra_special_tokens and fails on the empty list of transformers 5.
    changes = {"tokenizer_class": "T5TokenizerFast", "extra_special_tokens": {}}
    _edit_json(folder / "tokenizer_2" / "tokenizer_config.json", changes)
    bpe = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"], ensure_ascii=False))
    merges = "\n".join(pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"])
    (folder / "tokenizer" / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")


def _edit_json(path: Path, changes: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")
