"""nano-SAM: a small Sam of segment-anything's own classes for 128 px images: ``artiagent nano train sam --minutes 50``.

It learns the masks of rendered entities and parts from their boxes, drawn as badly as a weak detector draws them. Knows
masks and boxes. Does not know names: what is in the box is up to the detector. Loss as in the paper (focal and dice 20
to 1, squared error of the predicted IoU; arXiv 2304.02643, appendix A), with box prompts alone and one mask a prompt.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from artiagent.nano.augment import LIGHT_ONLY, augmented_view
from artiagent.nano.export import replacing, write_training
from artiagent.nano.grounding_evaluation import box_iou, mask_iou
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, describe_machine, fit
from artiagent.nano.parser import classes
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene
from artiagent.nano.views import View, box_of, view_of
from artiagent.perception.grounding import Segmenter
from artiagent.perception.grounding.sam import CONFIG, WEIGHTS, SamSegmenter, SamSizes, build_sam

IMAGE_SIZE = 128
FIRST_SEED = TRAIN_SEEDS[800_000_000]
HELD_OUT_SEED = TRAIN_SEEDS[1_800_000_000]
LEAST_PIXELS = 12  # of a mask that is asked for
LEAST_IOU = 0.35  # of a badly drawn box with the true one: below, it may well mean something else
PROMPTS = 8  # per image and step
CELL = 2  # px, side of what the dense head labels
DENSE_SHARE = 0.2  # of the budget: the image encoder alone
DENSE_WEIGHT = 0.3  # afterwards
EXPORT_SECONDS = 300.0
SIZES = SamSizes(
    image_size=IMAGE_SIZE, patch_size=8, embed_dim=192, depth=6, num_heads=4, global_attention=(), window_size=0,
    out_channels=128, decoder_mlp=384, multimask_outputs=0, mask_channels=8,
)  # fmt: skip


@dataclass
class Prompts:
    """B images uint8 [B, 3, H, W] with P prompts each.

    `boxes` float [B, P, 4] px, `masks` bool [B, P, H, W]; every second pixel's class `labels` [B, h, w] and whether
    another thing begins to its right or below `edges` float [B, h, w].
    """

    images: Tensor
    boxes: Tensor
    masks: Tensor
    labels: Tensor
    edges: Tensor

    def to(self, device: str) -> Prompts:
        return Prompts(*(getattr(self, item.name).to(device) for item in fields(self)))


class Learner(nn.Module):
    """The Sam and a linear head on its image embedding that only training has: what every second pixel shows, and where
    things end. The head teaches the encoder several times as fast as masks do and is dropped at export."""

    def __init__(self, sizes: SamSizes):
        super().__init__()
        self.sam = build_sam(sizes)
        self.cells = sizes.patch_size // CELL
        self.dense = nn.Conv2d(sizes.out_channels, self.cells**2 * (len(classes()) + 1), 1)

    def forward(self, drawn: Prompts, masks: bool = True) -> Tensor:
        """The dense loss, with `masks` SAM's loss beside it; a scalar."""
        embeddings = self.sam.image_encoder(self.sam.preprocess(drawn.images.float()))
        dense = self._dense_loss(embeddings, drawn)
        return prompt_loss(self.sam, embeddings, drawn) + DENSE_WEIGHT * dense if masks else dense

    def _dense_loss(self, embeddings: Tensor, drawn: Prompts) -> Tensor:
        found = F.pixel_shuffle(self.dense(embeddings).float(), self.cells)
        ends = F.binary_cross_entropy_with_logits(found[:, -1], drawn.edges)
        return F.cross_entropy(found[:, :-1], drawn.labels) + ends


def masks_of(view: View) -> list[np.ndarray]:
    """bool [H, W] each: entities as far as they are visible, then parts."""
    entities = [view.owners == owner for owner in range(1, len(view.kinds) + 1)]
    return [mask for mask in (*entities, *(part.mask for part in view.parts)) if mask.sum() >= LEAST_PIXELS]


def shaken(box: Sequence[float], rng: random.Random, side: int = IMAGE_SIZE) -> tuple[float, ...]:
    """The box as a detector of IoU .5 to .8 would draw it: a quarter of them tight, the rest moved and scaled by up to
    a quarter of their sides and up to 2 px more; an image has `side` px."""
    if rng.random() < 0.25:
        return tuple(map(float, box))
    x0, y0, x1, y1 = box
    for _ in range(20):
        strength = rng.random()
        spans = []
        for low, high in ((x0, x1), (y0, y1)):
            middle = (low + high) / 2 + strength * rng.uniform(-0.2, 0.2) * (high - low)
            length = (high - low) * np.exp(strength * rng.uniform(-0.25, 0.25))
            spans.append([middle + sign * length / 2 + strength * rng.uniform(-2, 2) for sign in (-1, 1)])
        (a, c), (b, d) = spans
        drawn = tuple(float(np.clip(value, 0, side)) for value in (a, b, c, d))
        if box_iou(np.array([drawn]), np.array([box], float)) >= LEAST_IOU:
            return drawn
    return tuple(map(float, box))


def prompts_of(view: View, count: int, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """`count` prompts about one view, boxes [count, 4] and masks [count, H, W]: every mask as often as any other."""
    known = masks_of(view)
    order = [mask for _ in range(-(-count // max(1, len(known)))) for mask in rng.sample(known, len(known))][:count]
    if not order:
        raise ValueError("a view without anything visible has no prompts")
    return np.array([shaken(box_of(mask), rng) for mask in order], np.float32), np.stack(order)


def draw_prompts(pool: ScenePool, images: int, rng: random.Random) -> Prompts:
    """`images` lightly augmented scenes of the pool with `PROMPTS` prompts each."""
    views = [augmented_view(pool.draw(rng), rng, LIGHT_ONLY) for _ in range(images)]
    boxes, masks = zip(*(prompts_of(view, PROMPTS, rng) for view in views), strict=True)
    labels, edges = zip(*(_dense_targets(view) for view in views), strict=True)
    pixels = np.stack([view.image for view in views]).transpose(0, 3, 1, 2)
    arrays = (np.ascontiguousarray(pixels), *map(np.stack, (boxes, masks, labels, edges)))
    return Prompts(*map(torch.from_numpy, arrays))


def _dense_targets(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Class int64 [h, w] of every second pixel, and float32 [h, w] where another body or part begins beside it."""
    index = {name: number for number, name in enumerate(classes())}
    labels, things = np.zeros(view.image.shape[:2], np.int64), view.owners.astype(np.int64)
    for number, kind in enumerate(view.kinds, start=1):
        labels[view.owners == number] = index[kind]
    for number, part in enumerate(view.parts, start=len(view.kinds) + 1):
        labels[part.mask], things[part.mask] = index[part.name], number
    labels, things = (plane[CELL // 2 :: CELL, CELL // 2 :: CELL] for plane in (labels, things))
    edges = np.zeros(things.shape, np.float32)
    edges[:, :-1] = things[:, :-1] != things[:, 1:]
    edges[:-1] = np.maximum(edges[:-1], things[:-1] != things[1:])
    return labels, edges


def prompt_loss(sam: Sam, embeddings: Tensor, drawn: Prompts) -> Tensor:
    """SAM's loss over all prompts about images with the `embeddings` [B, C, h, w]; scalar."""
    losses = []
    for embedding, boxes, masks in zip(embeddings, drawn.boxes, drawn.masks, strict=True):
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        logits, quality = sam.mask_decoder(
            embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
        logits = F.interpolate(logits.float(), masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        losses.append(mask_loss(logits, masks.float(), quality.float()[:, 0]))
    return torch.stack(losses).mean()


def mask_loss(logits: Tensor, truth: Tensor, quality: Tensor) -> Tensor:
    """20 x focal + dice + squared error of `quality` [P] against the IoU; `logits` and `truth` [P, H, W]; scalar.

    Object and background weigh the same in the focal loss. With the usual .25 to .75 masks of entities came out small
    (precision .96, recall .90), and parts at their rim were not contained in them.
    """
    each = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    scores = logits.sigmoid()
    sure = torch.where(truth > 0, scores, 1 - scores)
    focal = (0.5 * (1 - sure) ** 2 * each).mean()
    dice = 1 - (2 * (scores * truth).sum((1, 2)) + 1) / ((scores + truth).sum((1, 2)) + 1)
    with torch.no_grad():
        found = logits > 0
        iou = (found & (truth > 0)).sum((1, 2)) / (found | (truth > 0)).sum((1, 2)).clamp(min=1)
    return 20 * focal + dice.mean() + F.mse_loss(quality, iou)


def train_sam(
    out: Path,
    work: Path,
    *,
    minutes: float = 55.0,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    batch: int = 8,
    scenes: int = 12_000,
    learning_rate: float = 1e-3,
    steps: int | None = None,
    held_out: int = 200,
    sizes: SamSizes = SIZES,
) -> dict[str, object]:
    """Train for `minutes` (or `steps`), resume from `work` after a kill, export to `out` now and then.

    Returns what ``training.json`` in `out` holds. Raises ValueError when `work` holds another recipe's checkpoint.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    learner = Learner(sizes).to(device)
    pool = ScenePool(FIRST_SEED + seed * scenes, scenes)
    schedule = Schedule(seconds=minutes * 60, learning_rate=learning_rate, batch=batch, steps=steps)
    recipe = {"seed": seed, "batch": batch, "prompts": PROMPTS, "scenes": scenes, "learning_rate": learning_rate}
    report = {"recipe": recipe, "hardware": describe_machine(device, threads)}
    autocast, exported = bf16_is_native(device), [0.0]

    def loss_of(learner: nn.Module, generator: torch.Generator, fraction: float) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        drawn = draw_prompts(pool, batch, rng).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            return learner(drawn, fraction >= DENSE_SHARE)

    def on_save(averaged: nn.Module, progress: Progress) -> dict[str, float]:
        if progress.seconds - exported[0] < EXPORT_SECONDS:
            return {}
        exported[0] = progress.seconds
        return export(out, averaged, sizes, progress, report, held_out=min(held_out, 40))["held_out"]

    averaged, progress = fit(
        learner, loss_of, schedule, work / "sam.safetensors", seed=seed, label="nano-SAM", on_save=on_save
    )
    return export(out, averaged, sizes, progress, report, held_out=held_out)


def export(
    out: Path, learner: Learner, sizes: SamSizes, progress: Progress, report: dict[str, object], *, held_out: int
) -> dict[str, object]:
    """Write the folder (float16 weights), measured as it will be loaded; returns what ``training.json`` holds."""
    with replacing(out) as folder:
        twin = copy.deepcopy(learner.sam).cpu().to(torch.float16)
        save_file({name: value.contiguous() for name, value in twin.state_dict().items()}, folder / WEIGHTS)
        (folder / CONFIG).write_text(sizes.model_dump_json(indent=1) + "\n", encoding="utf-8")
        segmenter = SamSegmenter(str(folder), device="cpu")
        figures = measure(segmenter, first_seed=HELD_OUT_SEED, scenes=held_out)
        return write_training(folder, report, twin, progress, figures)


def measure(segmenter: Segmenter, *, first_seed: int, scenes: int) -> dict[str, float]:
    """Mean mask IoU on held-out scenes, of entities and parts apart, from true boxes and from shaken ones."""
    rng = random.Random(first_seed)
    views = [view_of(render_scene(seed)) for seed in range(first_seed, first_seed + scenes)]
    images, truth = [view.image for view in views], [masks_of(view) for view in views]
    figures: dict[str, float] = {}
    for how, draw in (("true_box", list), ("shaken_box", lambda box: shaken(box, rng))):
        boxes = [np.array([draw(box_of(mask)) for mask in masks], np.float32) for masks in truth]
        found = segmenter.segment(images, boxes)
        ious = [[mask_iou(*pair) for pair in zip(*masks, strict=True)] for masks in zip(truth, found, strict=True)]
        counts = [len(view.kinds) for view in views]
        figures[f"entity_iou_{how}"] = _mean(row[:n] for row, n in zip(ious, counts, strict=True))
        figures[f"part_iou_{how}"] = _mean(row[n:] for row, n in zip(ious, counts, strict=True))
    return figures | {"scenes": scenes}


def _mean(rows: Iterable[Sequence[float]]) -> float:
    return round(float(np.mean([value for row in rows for value in row])), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano-SAM on rendered masks.")
    parser.add_argument("--out", type=Path, default=Path("data/weights/nano-sam"), help="folder to write")
    parser.add_argument("--work", type=Path, default=Path(".artiagent/train/sam"), help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=55.0, help="minutes of optimisation")
    parser.add_argument("--steps", type=int, help="stop after so many steps, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    report = train_sam(**vars(parser.parse_args()))
    print(json.dumps({key: report[key] for key in ("steps", "images", "seconds", "held_out")}, indent=1))


if __name__ == "__main__":
    main()
