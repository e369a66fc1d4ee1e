"""Who repaints a region of an image: FLUX pipelines of diffusers behind one protocol, chosen by the folder.

A ``FluxFillPipeline`` folder (nano-fill, FLUX.1-Fill-dev) was trained to fill holes. A ``FluxPipeline`` folder repaints
through `FluxInpaintPipeline`; a FLUX ControlNet through `FluxControlNetInpaintPipeline`, as a pipeline folder with a
component ``controlnet``, or as a bare `FluxControlNetModel` folder beside a base pipeline. Does not know judges, boxes
or files: what is outside a mask may come back changed and is put back by whoever asked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import CorrectionSection
from artiagent.devices import quiet_loading, torch_device, torch_dtype, use_threads
from artiagent.records import CheckpointRef, stable_hash

FILL_GUIDANCE, BASE_GUIDANCE = 30.0, 3.5  # where the configuration names none
TEXT_TOKENS = 512  # at most; a folder's own tokenizer may say less
_INDEX, _CONFIG, _CONTROL = "model_index.json", "config.json", "FluxControlNetModel"
# pipeline class in a folder's index -> the class that inpaints with its parts
PIPELINES = {
    "FluxFillPipeline": "FluxFillPipeline",
    "FluxPipeline": "FluxInpaintPipeline",
    "FluxInpaintPipeline": "FluxInpaintPipeline",
    "FluxControlNetPipeline": "FluxControlNetInpaintPipeline",
    "FluxControlNetInpaintPipeline": "FluxControlNetInpaintPipeline",
}


class Inpainter(Protocol):
    """Repaints regions. ``name`` is how tables call it, ``sha256`` identifies its weights, ``calls`` counts transformer
    calls per image so far (two a step where guidance is classifier-free)."""

    name: str
    sha256: str
    calls: int

    def repaint(
        self, images: np.ndarray, masks: np.ndarray, captions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        """Paint anew what the masks mark.

        Args:
            images: uint8 [n, H, W, 3], any H and W.
            masks: bool [n, H, W].
            captions: what each whole image should show.
            seeds: of the noise, one each; the same seed draws the same noise in any company.

        Returns uint8 [n, H, W, 3]; an image that is not a number anywhere comes back black.
        """
        ...

    def reencode(self, images: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] once through the autoencoder alone: what is lost without any repainting."""
        ...


def open_inpainter(ref: CheckpointRef, section: CorrectionSection) -> FluxInpainter:
    """Load an inpainter folder. Raises ValueError for another kind of folder or a ControlNet without its base."""
    from diffusers import DiffusionPipeline

    quiet_loading()
    use_threads(section.threads)
    folder, dtype = Path(ref.uri), torch_dtype(section.dtype)
    kind, sha256 = inpainting_class(folder), ref.sha256
    if (folder / _INDEX).is_file():
        loaded = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
        components = loaded.components
    else:
        from diffusers import FluxControlNetModel

        if section.base is None:
            raise ValueError(f"{folder}: a bare ControlNet; name the FluxPipeline it controls as correction.base")
        base = checkpoint_ref("base", section.base)
        if inpainting_class(Path(base.uri)) != PIPELINES["FluxPipeline"]:
            raise ValueError(
                f"correction.base {section.base}: expected a FluxPipeline folder for the ControlNet {folder}"
            )
        loaded = DiffusionPipeline.from_pretrained(base.uri, dtype=dtype)
        control = FluxControlNetModel.from_pretrained(folder, dtype=dtype)
        components = {**loaded.components, "controlnet": control}
        sha256 = stable_hash(ref.sha256, base.sha256, length=64)
    return FluxInpainter(ref.name, sha256, kind, components, section)


def inpainting_class(folder: Path) -> str:
    """Name of the diffusers pipeline that inpaints with what lies in ``folder``, found without loading weights.

    Raises ValueError naming what was found and what is expected.
    """
    index, config = folder / _INDEX, folder / _CONFIG
    path = index if index.is_file() else config
    found = json.loads(path.read_text()).get("_class_name") if path.is_file() else None
    if path == config and found == _CONTROL:
        return PIPELINES["FluxControlNetPipeline"]
    if path == config or found not in PIPELINES:
        raise ValueError(
            f"{folder}: {found or 'no diffusers folder'} cannot inpaint; expected {', '.join(PIPELINES)} ({_INDEX}) "
            f"or a {_CONTROL} ({_CONFIG})"
        )
    return PIPELINES[found]


class FluxInpainter:
    """One of the FLUX inpainting pipelines; see `Inpainter`.

    Args:
        name: how tables call it.
        sha256: of its weights.
        kind: class of the diffusers pipeline.
        components: the pipeline's parts.
        section: steps, strength (not of Fill, which starts from noise), guidance, device, dtype, batch.
    """

    def __init__(
        self, name: str, sha256: str, kind: str, components: dict[str, Any], section: CorrectionSection
    ) -> None:
        import diffusers

        self.name, self.sha256, self.calls, self.kind = name, sha256, 0, kind
        self._section, self._device = section, torch_device(section.device)
        accepted = {key: part for key, part in components.items() if part is not None}
        self._pipe = getattr(diffusers, kind)(**accepted).to(self._device)
        self._pipe.set_progress_bar_config(disable=True)
        self.patch = self._pipe.vae_scale_factor * 2  # px per token, each way
        self._limit = int(min(self._pipe.tokenizer_2.model_max_length, TEXT_TOKENS))

    def repaint(
        self, images: np.ndarray, masks: np.ndarray, captions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        height, width = images.shape[1:3]
        images, masks = self._padded(images), self._padded(masks)
        parts = [self._paint(images[rows], masks[rows], captions[rows], seeds[rows]) for rows in self._batches(images)]
        return np.concatenate(parts)[:, :height, :width]

    @torch.inference_mode()
    def reencode(self, images: np.ndarray) -> np.ndarray:
        height, width = images.shape[1:3]
        images, vae = self._padded(images), self._pipe.vae
        decoded = []
        for rows in self._batches(images):
            pixels = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).to(self._device, vae.dtype) / 127.5 - 1
            decoded.append(vae.decode(vae.encode(pixels).latent_dist.mode()).sample.float().cpu())
        unit = (torch.cat(decoded) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
        return (unit[:, :height, :width] * 255).round().astype(np.uint8)

    def _padded(self, images: np.ndarray) -> np.ndarray:
        """[n, H, W, ...] with H and W a multiple of the patch; the frame's pixels are repeated."""
        margins = [(0, 0), *((0, -side % self.patch) for side in images.shape[1:3])]
        return np.pad(images, margins + [(0, 0)] * (images.ndim - 3), mode="edge")

    def _batches(self, images: np.ndarray) -> list[slice]:
        return [slice(start, start + self._section.batch) for start in range(0, len(images), self._section.batch)]

    @torch.inference_mode()
    def _paint(
        self, images: np.ndarray, masks: np.ndarray, captions: Sequence[str], seeds: Sequence[int]
    ) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        before, calls = self._pipe.transformer.forward, 0

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            return before(*args, **kwargs)

        self._pipe.transformer.forward = counted
        try:
            painted = self._pipe(
                prompt=list(captions), image=pixels, mask_image=torch.from_numpy(masks)[:, None].float(),
                height=images.shape[1], width=images.shape[2], num_inference_steps=self._section.steps,
                generator=[torch.Generator().manual_seed(seed) for seed in seeds], max_sequence_length=self._limit,
                output_type="np", **self._options(pixels),
            ).images  # fmt: skip
        finally:
            self._pipe.transformer.forward = before
            self.calls += calls * len(images)
        whole = np.isfinite(painted).all(axis=(1, 2, 3), keepdims=True)
        return (np.where(whole, painted, 0).clip(0, 1) * 255).round().astype(np.uint8)

    def _options(self, pixels: torch.Tensor) -> dict[str, Any]:
        """What only some of the pipelines take: guidance of the model's own kind, strength, what controls."""
        embedded = bool(self._pipe.transformer.config.guidance_embeds)
        told = self._section.guidance
        if self.kind == "FluxFillPipeline":
            return {"guidance_scale": FILL_GUIDANCE if told is None else told}
        guidance = BASE_GUIDANCE if told is None else told
        options: dict[str, Any] = {"strength": self._section.strength, "guidance_scale": guidance}
        if self.kind == "FluxControlNetInpaintPipeline":
            return {**options, "control_image": pixels}
        if not embedded and guidance > 1:
            options |= {"true_cfg_scale": guidance, "negative_prompt": [""] * len(pixels)}
        return options
