"""Vision towers: pixels -> features of a picture and of its cells.

Knows the towers of CLIP and of Qwen2.5-VL as they lie in their folders, and a small one of convolutions that starts
from nothing; how each is stored and opened again. Does not know pairs, heads or rewards. Every tower sees the whole
picture, scaled to its square: a centre crop would lose the faults near the border.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TOWER, WEIGHTS = "tower.json", "tower.safetensors"
LARGEST_SIDE = 448  # px of a tower that takes any size, unless told otherwise


class Features(NamedTuple):
    """``whole`` [B, F] of the picture, ``cells`` [B, rows * cols, F] of its places, row by row."""

    whole: Tensor
    cells: Tensor


class Tower(nn.Module):
    """float [B, 3, side, side] in 0..1 -> `Features`.

    Args:
        kind: "clip", "qwen" or "cnn".
        model: the network that ``kind`` names.
        side: px, height and width of what it sees.
        width: F, numbers per cell.
        cell: px, height and width of a cell.
    """

    def __init__(self, kind: str, model: nn.Module, side: int, width: int, cell: int) -> None:
        super().__init__()
        self.kind, self.model, self.side, self.width, self.rows = kind, model, side, width, side // cell
        mean, std = ((0.5,) * 3, (0.25,) * 3) if kind == "cnn" else (MEAN, STD)
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, pixels: Tensor) -> Features:
        inputs = (pixels - self.mean) / self.std
        if self.kind == "clip":
            seen = self.model(pixel_values=inputs)
            return Features(seen.pooler_output, self.model.post_layernorm(seen.last_hidden_state[:, 1:]))
        cells = _qwen_cells(self.model, inputs) if self.kind == "qwen" else self.model(inputs)
        return Features(cells.mean(1), cells)


class Block(nn.Module):
    """Two 3x3 convolutions beside a straight way; ``stride`` of the first."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(incoming, outgoing, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outgoing, outgoing, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(8, outgoing) for _ in range(2)])
        self.straight = nn.Conv2d(incoming, outgoing, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.gelu(self.norms[0](self.first(x)))
        return nn.functional.gelu(self.norms[1](self.second(inner)) + self.straight(x))


class Convolutions(nn.Module):
    """[B, 3, S, S] -> [B, (S / 8)^2, width]: cells of 8 px, each beside what its wider surroundings look like."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width // 2, 4, 4), nn.GroupNorm(8, width // 2), nn.GELU())
        self.near = nn.Sequential(Block(width // 2, width, 2), Block(width, width, 1))
        self.wide = nn.Sequential(Block(width, width, 2), Block(width, width, 1))
        self.both = Block(2 * width, width, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        near = self.near(self.stem(pixels))
        wide = nn.functional.interpolate(self.wide(near), size=near.shape[-2:], mode="bilinear")
        return self.both(torch.cat([near, wide], dim=1)).flatten(2).transpose(1, 2)


def open_tower(folder: Path, side: int | None = None) -> Tower:
    """The vision tower of a CLIPModel or Qwen2.5-VL folder, in float32.

    ``side``: px; of CLIP always its own. Raises ValueError naming the folder for other models.
    """
    config = json.loads((folder / "config.json").read_text())
    kind, vision = config.get("model_type", ""), config.get("vision_config", {})
    if kind == "clip":
        return _filled(_clip(vision, "vision_model."), folder)
    if kind == "qwen2_5_vl":
        return _filled(_qwen(vision, side or _side_of(folder, vision), "visual."), folder)
    raise ValueError(
        f"{folder}: vision tower of model type {kind!r}; expected clip or qwen2_5_vl: set reward.tower to clip, or "
        "name a Qwen2.5-VL as inputs.vlm"
    )


def new_tower(side: int, width: int) -> Tower:
    """A fresh tower of convolutions. ``side`` is a multiple of 16, ``width`` of 16."""
    return Tower("cnn", Convolutions(width), side, width, 8)


def save_tower(tower: Tower, folder: Path) -> None:
    """Write what `load_tower` reads; in half precision where that loses nothing."""
    state = {name: value.detach().cpu() for name, value in tower.model.state_dict().items()}
    lossless = all(torch.equal(v.half().float(), v.float()) for v in state.values() if v.is_floating_point())
    stored = {k: (v.half() if lossless and v.is_floating_point() else v).contiguous().clone() for k, v in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / WEIGHTS)
    config = tower.model.config.to_dict() if tower.kind != "cnn" else {}
    told = {"kind": tower.kind, "side": tower.side, "width": tower.width, "vision_config": config}
    (folder / TOWER).write_text(json.dumps(told, indent=1, default=str))


def load_tower(folder: Path) -> Tower:
    """A tower that `save_tower` wrote, in float32."""
    told = json.loads((folder / TOWER).read_text())
    tower = _empty(told)
    tower.model.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    return tower.eval()


def _empty(told: dict[str, Any]) -> Tower:
    if told["kind"] == "cnn":
        return new_tower(told["side"], told["width"])
    vision = told["vision_config"]
    return _clip(vision, "") if told["kind"] == "clip" else _qwen(vision, told["side"], "")


def _clip(vision: dict[str, Any], prefix: str) -> Tower:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    model = CLIPVisionModel(CLIPVisionConfig(**{k: v for k, v in vision.items() if k != "model_type"}))
    model.prefix = prefix
    return Tower("clip", model, model.config.image_size, model.config.hidden_size, model.config.patch_size)


def _qwen(vision: dict[str, Any], side: int, prefix: str) -> Tower:
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    config = Qwen2_5_VLVisionConfig(**{k: v for k, v in vision.items() if k != "model_type"})
    model = Qwen2_5_VisionTransformerPretrainedModel._from_config(config).float()
    model.prefix = prefix
    cell = config.patch_size * config.spatial_merge_size
    return Tower("qwen", model, side // cell * cell, config.out_hidden_size, cell)


def _filled(tower: Tower, folder: Path) -> Tower:
    """The tower with the weights of a model folder; those of the other parts of the model are not read."""
    prefix, found = tower.model.prefix, {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if prefix in name and not name.startswith("text_model."):
                    found[name.split(prefix, 1)[1]] = file.get_tensor(name).float()
    wanted = tower.model.state_dict()
    if missing := [name for name in wanted if name not in found and not name.endswith("position_ids")]:
        raise ValueError(
            f"{folder}: {len(missing)} weights of the vision tower are missing, first {missing[0]}; expected "
            "safetensors files with all weights"
        )
    tower.model.load_state_dict({k: v for k, v in found.items() if k in wanted}, strict=False)
    return tower.eval()


def _side_of(folder: Path, vision: dict[str, Any]) -> int:
    """px: the square of as many pixels as the model's processor lets pass, at most `LARGEST_SIDE`."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text())
            told = told.get("image_processor", told)
            pixels = told.get("max_pixels") or (told.get("size") or {}).get("longest_edge") or LARGEST_SIDE**2
            return min(LARGEST_SIDE, math.isqrt(int(pixels)))
    return LARGEST_SIDE


def _qwen_cells(model: nn.Module, inputs: Tensor) -> Tensor:
    """Merged tokens [B, T, F] of pictures of one size: patches in the order of the model's own processor."""
    config = model.config
    patch, merge, count = config.patch_size, config.spatial_merge_size, inputs.shape[0]
    rows, cols = inputs.shape[2] // patch, inputs.shape[3] // patch
    cut = inputs.view(count, 3, rows // merge, merge, patch, cols // merge, merge, patch)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # B, block row, block column, row in it, column in it, 3, p, p
    cut = cut.unsqueeze(6).expand(*cut.shape[:6], config.temporal_patch_size, patch, patch)
    grid = torch.tensor([[1, rows, cols]], device=inputs.device).expand(count, 3)
    merged = model(cut.reshape(count * rows * cols, -1), grid_thw=grid).pooler_output
    return merged.view(count, rows * cols // merge**2, -1)
