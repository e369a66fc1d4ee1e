"""What nano-FLUX can do, as one picture and a few figures: encode path, inversion, generation, inpainting.

Looks only at an exported folder, through the same diffusers pipelines that everybody else uses.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxInpaintPipeline, FluxPipeline
from PIL import Image

from artiagent.nano.flux_text import text_token_limit
from artiagent.nano.flux_transformer import pack, position_ids, unpack
from artiagent.nano.flux_vae import decode_latents, encode_latents, psnr
from artiagent.nano.scenes import BENCH_SEEDS, RenderedScene, render_scene
from artiagent.synthesis.solvers import flux_times, walk

GUIDANCE = 3.5  # classifier-free: without it bodies fall apart, from 6 on colours burn


def load(folder: Path) -> FluxPipeline:
    """The folder's pipeline in float32 without progress bars."""
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(
    pipeline: FluxPipeline,
    captions: Sequence[str],
    limit: int,
    *,
    steps: int,
    size: int,
    seed: int = 0,
    guidance: float = GUIDANCE,
) -> np.ndarray:
    """One picture per caption, uint8 [B, size, size, 3]; `guidance` 1 asks for none."""
    pictures = pipeline(
        list(captions), negative_prompt=[""] * len(captions), true_cfg_scale=guidance,
        height=size, width=size, num_inference_steps=steps, max_sequence_length=limit,
        generator=torch.Generator().manual_seed(seed), output_type="np",
    ).images  # fmt: skip
    return as_bytes(pictures)


@torch.no_grad()
def invert_and_return(
    pipeline: FluxPipeline, images: torch.Tensor, captions: Sequence[str], limit: int, *, solver: str, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Image -> noise -> image with `solver`, prompted by the captions.

    `images` uint8 [B, H, W, 3]. Returns the pictures, uint8 alike, and the noise [B, L, C] that was reached.
    """
    states, pooled, text_ids = pipeline.encode_prompt(list(captions), max_sequence_length=limit)
    latents = encode_latents(pipeline.vae, images)
    rows, columns = latents.shape[2] // 2, latents.shape[3] // 2

    def velocity(tokens: torch.Tensor, time: float, node: int) -> torch.Tensor:
        return pipeline.transformer(
            hidden_states=tokens,
            timestep=torch.full((len(tokens),), time),
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=position_ids(rows, columns),
            return_dict=False,
        )[0]

    times = flux_times(steps, mu=0.5)
    noise = walk(solver, velocity, pack(latents), times, up=True)
    tokens = walk(solver, velocity, noise, times, up=False)
    return decode_latents(pipeline.vae, unpack(tokens, 2 * rows, 2 * columns)), noise


def inpaint(
    pipeline: FluxPipeline, scenes: Sequence[RenderedScene], limit: int, *, steps: int, seed: int = 0
) -> np.ndarray:
    """Repaint each scene's largest part inside its box, prompted by the caption; uint8 [B, H, W, 3]."""
    repair = FluxInpaintPipeline(**pipeline.components)
    repair.set_progress_bar_config(disable=True)
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2) / 255
    masks = torch.from_numpy(np.stack([_largest_part_box(scene) for scene in scenes]))[:, None].float()
    pictures = repair(
        [scene.caption for scene in scenes], negative_prompt=[""] * len(scenes), true_cfg_scale=GUIDANCE,
        image=images, mask_image=masks,
        height=images.shape[2], width=images.shape[3], strength=0.9, num_inference_steps=steps,
        max_sequence_length=limit, generator=torch.Generator().manual_seed(seed), output_type="np",
    ).images  # fmt: skip
    return as_bytes(pictures)


def _largest_part_box(scene: RenderedScene) -> np.ndarray:
    part = max((part.mask for entity in scene.entities for part in entity.parts), key=np.sum)
    rows, columns = np.flatnonzero(part.any(1)), np.flatnonzero(part.any(0))
    box = np.zeros_like(part)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def as_bytes(pictures: np.ndarray) -> np.ndarray:
    """Float pictures in 0..1 -> uint8."""
    return (pictures * 255).round().clip(0, 255).astype(np.uint8)


def assess(folder: Path, picture: Path, *, count: int = 8, steps: int = 20, size: int = 128) -> dict[str, float]:
    """Draw rows of source, encode path, inversion and return, generation, inpainting; returns PSNRs in dB.

    Scenes are benchmark seeds, which training never sees. The inversion's PSNR is against the encode path.
    """
    pipeline, limit = load(folder), text_token_limit(folder)
    scenes = [render_scene(seed, size=size) for seed in BENCH_SEEDS[:count]]
    captions = [scene.caption for scene in scenes]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    encoded = decode_latents(pipeline.vae, encode_latents(pipeline.vae, images))
    figures = {"encode_path": psnr(encoded, images)}
    returned = {}
    for solver in ("euler", "fireflow"):
        returned[solver], noise = invert_and_return(pipeline, images, captions, limit, solver=solver, steps=10)
        figures[f"{solver}_10"] = psnr(returned[solver], encoded)
        figures[f"{solver}_10_noise_std"] = float(noise.std())
    rows = [images.numpy(), encoded.numpy(), returned["fireflow"].numpy()]
    rows += [generate(pipeline, captions, limit, steps=steps, size=size), inpaint(pipeline, scenes, limit, steps=steps)]
    write_sheet(rows, picture)
    return {name: round(value, 2) for name, value in figures.items()}


def write_sheet(rows: Sequence[np.ndarray], path: Path) -> None:
    """Save rows of pictures uint8 [N, H, W, 3] as one."""
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    # 128 colours keep a committed picture small.
    Image.fromarray(sheet).quantize(128).save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m artiagent.nano.flux_samples", description="Picture and figures of an exported nano-FLUX folder."
    )
    parser.add_argument("--folder", type=Path, default=Path("data/weights/nano-flux"))
    parser.add_argument("--out", type=Path, default=Path("runs/nano-flux.png"))
    parser.add_argument("--count", type=int, default=8, help="columns of the picture (default 8)")
    options = parser.parse_args(arguments)
    print(json.dumps(assess(options.folder, options.out, count=options.count), indent=1))


if __name__ == "__main__":
    main()
