"""What nano-schnell and nano-fill can do on scenes that no training saw: shares by part counts, and two pictures.

Looks only at exported folders, through the diffusers pipelines that everybody else uses.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxFillPipeline

from artiagent.nano.anatomy import PartJudge
from artiagent.nano.fill import boxes_to_masks
from artiagent.nano.flux_samples import as_bytes, generate, load, write_sheet
from artiagent.nano.flux_text import text_token_limit
from artiagent.nano.flux_vae import decode_latents, encode_latents
from artiagent.nano.scene_stream import box_of
from artiagent.nano.scenes import TRAIN_SEEDS, RenderedScene, render_scene

HELD_OUT_SEED = TRAIN_SEEDS[1_400_000_000]
BATCH = 16
MASKS = {"part": 0.0, "dilated part": 0.4, "entity": 0.05}  # share of the box by which each of its sides moves out


def generated_share(
    folder: Path, judge: PartJudge, captions: Sequence[str], *, steps: int, guidance: float
) -> tuple[float, float, np.ndarray]:
    """Share of pictures that `judge` calls faultless, ms per picture, and the pictures uint8 [N, H, W, 3]."""
    pipeline, limit, began = load(folder), text_token_limit(folder), time.perf_counter()
    pictures = np.concatenate(
        [
            generate(
                pipeline, captions[start : start + BATCH], limit, steps=steps, size=128, seed=start, guidance=guidance
            )  # fmt: skip
            for start in range(0, len(captions), BATCH)
        ]
    )
    spent = 1000 * (time.perf_counter() - began) / len(captions)
    return float(1 - judge.faulty(list(pictures), captions).mean()), spent, pictures


def repair(
    pipeline: FluxFillPipeline, images: np.ndarray, masks: np.ndarray, captions: Sequence[str], limit: int, steps: int
) -> np.ndarray:
    """Repaint `images` uint8 [N, H, W, 3] where `masks` bool [N, H, W] are true; what is not masked stays as it was."""
    done = []
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        pictures = pipeline(
            list(captions[rows]), image=torch.from_numpy(images[rows]).permute(0, 3, 1, 2) / 255,
            mask_image=torch.from_numpy(masks[rows])[:, None].float(), height=images.shape[1], width=images.shape[2],
            num_inference_steps=steps, max_sequence_length=limit, output_type="np",
            generator=torch.Generator().manual_seed(start),
        ).images  # fmt: skip
        done.append(as_bytes(pictures))
    return np.where(masks[..., None], np.concatenate(done), images)


def masks_of(scenes: Sequence[RenderedScene], kind: str, seed: int = 0) -> np.ndarray:
    """One mask bool [N, H, W] a scene: a random part's box, the same dilated, or a random entity's."""
    rng, boxes = np.random.default_rng(seed), []
    for scene in scenes:
        entity = scene.entities[rng.integers(len(scene.entities))]
        named = [part.mask for part in entity.parts]
        mask = entity.mask if kind == "entity" or not named else named[rng.integers(len(named))]
        left, top, right, bottom = box_of(mask)
        wide, high = MASKS[kind] * (right - left) + 1, MASKS[kind] * (bottom - top) + 1
        boxes.append([[left - wide, top - high, right + wide, bottom + high]])
    return boxes_to_masks(torch.tensor(boxes), scenes[0].image.shape[0]).numpy()


def assess(schnell: Path, fill: Path, flux: Path, parser: Path, out: Path, *, count: int) -> dict[str, object]:
    """Figures on `count` held-out scenes of one entity; writes `out`/nano-schnell.png and `out`/nano-fill.png."""
    judge, figures = PartJudge(parser), {"scenes": count}
    scenes = [render_scene(HELD_OUT_SEED + number, entities=1) for number in range(count)]
    captions = [scene.caption for scene in scenes]
    pipeline = FluxFillPipeline.from_pretrained(fill, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = torch.from_numpy(np.stack([scene.image for scene in scenes]))
    clean = decode_latents(pipeline.vae, encode_latents(pipeline.vae, images)).numpy()
    figures["clean faultless"] = float(1 - judge.faulty(list(clean), captions).mean())
    rows = [clean[:12]]
    for name, folder, steps, guidance in (
        ("schnell 4", schnell, 4, 1.0), ("schnell 8", schnell, 8, 1.0), ("flux 28", flux, 28, 3.5)
    ):  # fmt: skip
        share, spent, pictures = generated_share(folder, judge, captions, steps=steps, guidance=guidance)
        figures[name] = {"faultless": round(share, 3), "ms": round(spent)}
        rows.append(pictures[:12])
    write_sheet(rows, out / "nano-schnell.png")
    rows = []
    for kind in MASKS:
        masks = masks_of(scenes, kind)
        for steps in (4, 8):
            repaired = repair(pipeline, clean, masks, captions, text_token_limit(fill), steps)
            figures[f"fill {kind} {steps}"] = {
                "parts of the original": round(float(judge.restored(list(repaired), list(clean)).mean()), 3),
                "faultless": round(float(1 - judge.faulty(list(repaired), captions).mean()), 3),
            }
            if steps == 4:
                rows += [np.where(masks[..., None], np.uint8(128), clean)[:12], repaired[:12]]
    write_sheet(rows, out / "nano-fill.png")
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m artiagent.nano.few_step_samples",
        description="Pictures and figures of nano-schnell, nano-fill and, beside them, nano-FLUX.",
    )
    weights = Path("data/weights")
    for name in ("schnell", "fill", "flux", "parser"):
        parser.add_argument(f"--{name}", type=Path, default=weights / f"nano-{name}", help=f"folder of nano-{name}")
    parser.add_argument("--out", type=Path, default=Path("runs/few-step"), help="folder of the pictures")
    parser.add_argument("--count", type=int, default=96, help="scenes (default 96; nano-FLUX takes a second for each)")
    options = vars(parser.parse_args(arguments))
    print(json.dumps(assess(**options), indent=1))


if __name__ == "__main__":
    main()
