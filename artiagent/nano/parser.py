"""nano-parser: finds and counts parts in any picture of the nano world. The independent judge; evaluation only.

``python -m artiagent.nano.parser --minutes 12`` trains it on rendered masks. A small U-Net with two heads: which kind
or part every second pixel shows, and where each part has its middle (CenterNet's heat map), so that touching legs count
as several. It shares no weights and no architecture with the models that it judges, and training sees pasted and
erased parts under their true labels, so that it counts what is there and not what is usual.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from artiagent.nano.augment import LIGHT_ONLY, Chances, augmented_view
from artiagent.nano.export import replacing, write_training
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, describe_machine, fit
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import KINDS, TRAIN_SEEDS, render_scene
from artiagent.nano.views import View, patch_classes, view_of

IMAGE_SIZE, STRIDE = 128, 2
FIRST_SEED = TRAIN_SEEDS[700_000_000]
HELD_OUT_SEED = TRAIN_SEEDS[1_700_000_000]
MINIMUM_SCORE = 0.35  # of a peak that counts as a part; best count accuracy on 200 other scenes
TRAINING = Chances(warp=0.25, erase=0.3, mix=0.1, paste=0.5)
EXPORT_SECONDS = 240.0


def classes() -> tuple[str, ...]:
    """Names of the segmentation's classes: background, bodies by kind, parts."""
    return ("background", *patch_classes())


def part_names() -> tuple[str, ...]:
    """Names in the order of the heat map's channels."""
    return tuple(patch_classes())[len(KINDS) :]


@dataclass(frozen=True)
class FoundPart:
    """A part with its middle in px of the image and its score 0 to 1."""

    name: str
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Parsed:
    """`labels` uint8 [H, W] index `classes()`."""

    labels: np.ndarray
    parts: tuple[FoundPart, ...]

    def counts(self) -> Counter[str]:
        """How many of each part there are."""
        return Counter(part.name for part in self.parts)

    def mask(self, name: str) -> np.ndarray:
        """bool [H, W]: pixels of a kind's body or a part."""
        return self.labels == classes().index(name)


class UNet(nn.Module):
    """Pictures [B, 3, H, W] in -1..1 -> class logits [B, C, H/2, W/2] and heat-map logits [B, parts, H/2, W/2]."""

    def __init__(self, classes: int, parts: int, width: int = 24):
        super().__init__()
        sizes = [width, 2 * width, 4 * width, 4 * width]
        self.stem = nn.Conv2d(3, sizes[0], 4, 2, 1)
        self.first = _Block(sizes[0], sizes[0])
        self.down = nn.ModuleList(_Block(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.bottom = _Block(sizes[-1], sizes[-1])
        self.up = nn.ModuleList(
            _Block(deep + skip, skip) for deep, skip in zip(sizes[:0:-1], sizes[-2::-1], strict=True)
        )
        self.labels = nn.Conv2d(sizes[0], classes, 1)
        self.centres = nn.Conv2d(sizes[0], parts, 1)
        nn.init.constant_(self.centres.bias, -4.0)  # nearly no pixel is a middle

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(self.stem(pixels))
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(F.max_pool2d(x, 2))
        x = self.bottom(x)
        for block, skip in zip(self.up, reversed(skips), strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], 1))
        return self.labels(x), self.centres(x)


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.narrow = nn.Conv2d(inputs, outputs, 1)
        self.mix = nn.Sequential(
            nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, 1, 1),
            nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, 1, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        return x + self.mix(x)


class Parser:
    """The trained network of a folder, ready to parse pictures."""

    def __init__(self, folder: Path, *, threads: int | None = None):
        """Raises FileNotFoundError with what to do where the folder holds no parser."""
        if not (folder / "model.safetensors").is_file():
            raise FileNotFoundError(
                f"{folder}: no nano-parser here (model.safetensors); pull the data or train it: "
                "python -m artiagent.nano.parser"
            )
        if threads:
            torch.set_num_threads(threads)
        self.net = _fresh().eval()
        self.net.load_state_dict(
            {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
        )

    @torch.inference_mode()
    def parse(self, images: Sequence[np.ndarray], batch: int = 32) -> list[Parsed]:
        """uint8 [H, W, 3], sides divisible by 16, in any sizes -> their parts and classes, in order."""
        parsed: list[Parsed] = []
        start = 0
        while start < len(images):
            stop = start
            while stop < min(start + batch, len(images)) and images[stop].shape == images[start].shape:
                stop += 1
            labels, centres = self.net(pixels_of(np.stack(images[start:stop])))
            parsed += [_read(*pair) for pair in zip(labels.argmax(1), centres.sigmoid(), strict=True)]
            start = stop
        return parsed


def _fresh(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(len(classes()), len(part_names()))


def pixels_of(images: np.ndarray) -> Tensor:
    """uint8 [B, H, W, 3] -> [B, 3, H, W] in -1..1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _read(labels: Tensor, scores: Tensor) -> Parsed:
    """Class map [h, w] and scores [parts, h, w] at half the resolution; peaks are the largest in 3x3 cells."""
    peaks = (scores == F.max_pool2d(scores[None], 3, 1, 1)[0]) & (scores >= MINIMUM_SCORE)
    names = part_names()
    found = [
        FoundPart(names[name], (x + 0.5) * STRIDE, (y + 0.5) * STRIDE, float(scores[name, y, x]))
        for name, y, x in peaks.nonzero().tolist()
    ]
    full = labels.to(torch.uint8).numpy().repeat(STRIDE, 0).repeat(STRIDE, 1)
    return Parsed(full, tuple(sorted(found, key=lambda part: -part.score)))


@dataclass
class Targets:
    """Pictures [B, 3, H, W], classes [B, h, w] and Gaussian heat maps [B, parts, h, w] with 1 at every middle."""

    pixels: Tensor
    labels: Tensor
    centres: Tensor


def targets_of(views: Sequence[View]) -> Targets:
    """What the network should make of `views`."""
    return Targets(
        pixels_of(np.stack([view.image for view in views])),
        torch.from_numpy(np.stack([_label_map(view) for view in views])).long(),
        torch.from_numpy(np.stack([_heat(view) for view in views])),
    )


def _label_map(view: View) -> np.ndarray:
    index = {name: number for number, name in enumerate(classes())}
    full = np.zeros(view.image.shape[:2], np.uint8)
    for number, kind in enumerate(view.kinds, start=1):
        full[view.owners == number] = index[kind]
    for part in view.parts:
        full[part.mask] = index[part.name]
    return full[STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE]


def _heat(view: View) -> np.ndarray:
    names = {name: number for number, name in enumerate(part_names())}
    side = view.image.shape[0] // STRIDE
    along = np.arange(side, dtype=np.float32)
    heat = np.zeros((len(names), side, side), np.float32)
    for part in view.parts:
        if not part.visible:
            continue
        rows, columns = np.nonzero(part.mask)
        y, x = (int(axis.mean() / STRIDE) for axis in (rows, columns))
        spread = float(np.clip(0.09 * np.sqrt(part.area) / STRIDE + 0.5, 0.7, 1.8))
        bump = np.exp(-((along[:, None] - y) ** 2 + (along - x) ** 2) / (2 * spread**2))
        np.maximum(heat[names[part.name]], bump, out=heat[names[part.name]])
    return heat


def loss_of_batch(net: UNet, batch: Targets) -> Tensor:
    """Cross entropy of the classes plus CenterNet's penalty-reduced focal loss; scalar."""
    labels, centres = net(batch.pixels)
    scores = centres.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    middle = batch.centres == 1
    hit = torch.where(middle, (1 - scores) ** 2 * scores.log(), 0.0).sum()
    miss = torch.where(middle, 0.0, (1 - batch.centres) ** 4 * scores**2 * (1 - scores).log()).sum()
    return F.cross_entropy(labels.float(), batch.labels) - (hit + miss) / middle.sum().clamp(min=1)


def train_parser(
    out: Path,
    work: Path,
    *,
    minutes: float = 12.0,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    batch: int = 16,
    scenes: int = 8_000,
    learning_rate: float = 2e-3,
    steps: int | None = None,
    held_out: int = 200,
) -> dict[str, object]:
    """Train for `minutes` (or `steps`), resume from `work` after a kill, export to `out` now and then.

    Returns what ``training.json`` in `out` holds. Raises ValueError when `work` holds another recipe's checkpoint.
    """
    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    net = _fresh(seed).to(device)
    pool = ScenePool(FIRST_SEED + seed * scenes, scenes)
    schedule = Schedule(seconds=minutes * 60, learning_rate=learning_rate, batch=batch, steps=steps, warmup=100)
    recipe = {"seed": seed, "batch": batch, "scenes": scenes, "learning_rate": learning_rate}
    report = {"recipe": recipe, "hardware": describe_machine(device, threads)}
    autocast, exported = bf16_is_native(device), [0.0]

    def loss_of(net: nn.Module, generator: torch.Generator, _: float) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        drawn = draw_targets(pool, batch, rng)
        drawn = Targets(*(part.to(device) for part in (drawn.pixels, drawn.labels, drawn.centres)))
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            return loss_of_batch(net, drawn)

    def on_save(averaged: nn.Module, progress: Progress) -> dict[str, float]:
        if progress.seconds - exported[0] < EXPORT_SECONDS:
            return {}
        exported[0] = progress.seconds
        return export(out, averaged, progress, report, held_out=min(held_out, 60))["held_out"]

    averaged, progress = fit(
        net, loss_of, schedule, work / "parser.safetensors", seed=seed, label="nano-parser", on_save=on_save
    )
    return export(out, averaged, progress, report, held_out=held_out)


def draw_targets(pool: ScenePool, count: int, rng: random.Random) -> Targets:
    """`count` augmented scenes of the pool."""
    return targets_of([augmented_view(pool.draw(rng), rng, TRAINING) for _ in range(count)])


def export(
    out: Path, net: nn.Module, progress: Progress, report: dict[str, object], *, held_out: int
) -> dict[str, object]:
    """Write the folder (float16 weights), measured as it will be loaded; returns what ``training.json`` holds."""
    with replacing(out) as folder:
        twin = copy.deepcopy(net).cpu().to(torch.float16)
        save_file({name: value.contiguous() for name, value in twin.state_dict().items()}, folder / "model.safetensors")
        figures = measure(Parser(folder), first_seed=HELD_OUT_SEED, scenes=held_out)
        return write_training(folder, report, twin, progress, figures, classes=classes())


def measure(parser: Parser, *, first_seed: int, scenes: int) -> dict[str, float]:
    """Figures on held-out scenes, plain and with parts pasted or erased.

    `part_iou`, `body_iou`: mean over classes of the IoU over all pixels; `count_exact`: share of (scene, part name)
    with the true count, over names that occur or were found; `count_exact_changed`: the same where a part was pasted
    or erased, for that part's name alone.
    """
    rng = random.Random(first_seed)
    rendered = [render_scene(seed) for seed in range(first_seed, first_seed + scenes)]
    plain = [augmented_view(scene, rng, LIGHT_ONLY) for scene in rendered]
    changed = [augmented_view(scene, rng, Chances(erase=0.5, paste=0.5)) for scene in rendered]
    union, both = Counter(), Counter()
    right = [0, 0]
    for view, parsed in zip(plain, parser.parse([view.image for view in plain]), strict=True):
        truth = _label_map(view).repeat(STRIDE, 0).repeat(STRIDE, 1)
        for number, name in enumerate(classes()):
            one, other = truth == number, parsed.labels == number
            both[name] += int((one & other).sum())
            union[name] += int((one | other).sum())
        right = [a + b for a, b in zip(right, _exact(view, parsed), strict=True)]
    odd = [0, 0]
    for view, scene, parsed in zip(changed, rendered, parser.parse([view.image for view in changed]), strict=True):
        usual, now = _true_counts(view_of(scene)), _true_counts(view)
        names = {name for name in usual | now if usual[name] != now[name]}
        odd = [a + b for a, b in zip(odd, _exact(view, parsed, names), strict=True)]
    iou = {name: both[name] / union[name] for name in classes() if union[name]}
    parts = [iou[name] for name in part_names() if name in iou]
    bodies = [iou[name] for name in KINDS if name in iou]
    return {
        "part_iou": round(float(np.mean(parts)), 4),
        "body_iou": round(float(np.mean(bodies)), 4),
        "count_exact": round(right[0] / max(1, right[1]), 4),
        "count_exact_changed": round(odd[0] / max(1, odd[1]), 4),
        "scenes": scenes,
    }


def _true_counts(view: View) -> Counter[str]:
    return Counter(part.name for part in view.parts if part.visible)


def _exact(view: View, parsed: Parsed, names: set[str] | None = None) -> tuple[int, int]:
    """(right, asked) part names; those with an ambiguous part are left out."""
    truth, found = _true_counts(view), parsed.counts()
    unsure = {part.name for part in view.parts if part.area and not part.visible}
    asked = (set(truth) | set(found) if names is None else names) - unsure
    return sum(truth[name] == found[name] for name in asked), len(asked)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano-parser, the independent counter of parts.")
    parser.add_argument("--out", type=Path, default=Path("data/weights/nano-parser"), help="folder to write")
    parser.add_argument("--work", type=Path, default=Path(".artiagent/train/parser"), help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=12.0, help="minutes of optimisation")
    parser.add_argument("--steps", type=int, help="stop after so many steps, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    report = train_parser(**vars(parser.parse_args()))
    print(json.dumps({key: report[key] for key in ("steps", "images", "seconds", "held_out")}, indent=1))


if __name__ == "__main__":
    main()
