"""Where a model looks when it says whether an image has artifacts: the paper's check for shortcuts.

The position that answers the binary question attends to image tokens. Averaged over heads and over the last layers, and
normalised to add up to one over the image, that is a map on the grid of image tokens. Beside it stands the same
attention weighted by its gradient: per head only what raises Yes against No, so that heads which look somewhere without
any say in the answer drop out.

What attention says is limited: it is where the last position reads, not what earlier layers have moved there, and no
proof of cause. So it comes with a figure: the share of the map inside the ground-truth region over the region's share
of the image (1: no better than an even spread), and the same for regions of other images laid on clean ones.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import BatchFeature

from artiagent.config import BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_items, read_truth
from artiagent.evaluation.bootstrap import difference, draw_weights, interval
from artiagent.evaluation.metrics import mean_of, ratio_of
from artiagent.evaluation.scoring import Score
from artiagent.images import decode
from artiagent.instruction import prompts
from artiagent.records import CheckpointRef, Interval, Record
from artiagent.vlm.local import LocalVlm

VARIANTS = ("attention", "weighted")
ANSWERS = (prompts.YES, prompts.NO)
PAIRED = ("faulty", "clean", "excess")


class Gaze(NamedTuple):
    """One model's maps of one image, float64 [rows, columns] over its image tokens, each adding up to 1.

    ``on_image`` is the share of the position's attention that image tokens get at all, ``score`` P(Yes). ``weighted``
    is an even spread where no image token speaks for Yes.
    """

    attention: np.ndarray
    weighted: np.ndarray
    on_image: float
    score: float


class GazeReader:
    """Reads a vision-language model's attention.

    Args:
        model: folder in transformers' format.
        section: device, dtype, threads, batch size.
        layers: number of last layers to average over; None: half of them, rounded up.
    """

    def __init__(self, model: CheckpointRef, section: EvaluationSection, layers: int | None = None) -> None:
        vlm = LocalVlm(model.uri, section.device, section.dtype, section.threads, section.batch_size)
        self.name, self.batch_size, self.model, self.processor = vlm.name, vlm.batch_size, vlm.model, vlm.processor
        self.model.set_attn_implementation("eager")  # the other implementations do not keep the attention
        self.model.requires_grad_(False)  # slopes are taken of attention alone; the vision tower needs no graph
        self.model.get_input_embeddings().requires_grad_(True)
        self.depth = self.model.config.get_text_config().num_hidden_layers
        count = -(-self.depth // 2) if layers is None else layers
        if not 1 <= count <= self.depth:
            raise ValueError(f"{self.name}: {count} last layers asked for; expected 1 to {self.depth}, all it has")
        self.layers = tuple(range(self.depth - count, self.depth))
        self._image_token = getattr(self.model.config, "image_token_id", None)
        if self._image_token is None:
            raise ValueError(
                f"{self.name} ({self.model.config.model_type}): its configuration names no image_token_id, so the "
                "image's positions are not known; attention is read of Qwen2.5-VL, Qwen3-VL, InternVL and relatives"
            )

        cuts = hasattr(self.processor.image_processor, "crop_to_patches")  # InternVL: into tiles, with no one grid
        self._whole = {"crop_to_patches": False} if cuts else {}
        self.note = "shown as one tile, not cut into several" if cuts else ""

    def read(self, images: Sequence[np.ndarray]) -> list[Gaze]:
        """Maps at the canonical binary question, for images uint8 [H, W, 3]."""
        starts = range(0, len(images), self.batch_size)
        return [gaze for start in starts for gaze in self._read(images[start : start + self.batch_size])]

    def _read(self, images: Sequence[np.ndarray]) -> list[Gaze]:
        batch = self._batch(images)
        output = self.model(**batch, use_cache=False, output_attentions=True, logits_to_keep=1)
        if not output.attentions or output.attentions[-1] is None:
            raise ValueError(f"{self.name}: its architecture returns no attention; nothing can be shown of it")
        yes, no = (self.processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in ANSWERS)
        margin = output.logits[:, -1, yes].float() - output.logits[:, -1, no].float()
        kept = [output.attentions[layer] for layer in self.layers]  # each [B, heads, L, L]
        slopes = torch.autograd.grad(margin.sum(), kept)
        reading, slope = (torch.stack([layer[:, :, -1].detach().double() for layer in each]) for each in (kept, slopes))
        plain = reading.mean((0, 2)).cpu().numpy()  # [B, L]
        weighted = (reading * slope).clamp(min=0).mean((0, 2)).cpu().numpy()
        tokens = (batch["input_ids"] == self._image_token).cpu().numpy()
        scores = torch.sigmoid(margin.detach()).tolist()
        return [
            Gaze(_spread(a[at], grid), _spread(w[at], grid), float(a[at].sum()), score)
            for a, w, at, score, grid in zip(plain, weighted, tokens, scores, self._grids(batch, tokens), strict=True)
        ]

    def _batch(self, images: Sequence[np.ndarray]) -> BatchFeature:
        content = [{"type": "image"}, {"type": "text", "text": prompts.render(prompts.BINARY)}]
        chat = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        pictures = [[Image.fromarray(image)] for image in images]
        texts = [chat] * len(images)
        batch = self.processor(text=texts, images=pictures, padding=True, return_tensors="pt", **self._whole)
        return batch.to(self.model.device, dtype=self.model.dtype)

    def _grids(self, batch: BatchFeature, tokens: np.ndarray) -> list[tuple[int, int]]:
        """(rows, columns) of each row's image tokens, row-major over the whole image.

        Raises ValueError where they are not one grid over the image (an image that was cut into tiles).
        """
        counts = tokens.sum(1).tolist()
        shown = batch["image_grid_thw"].tolist() if "image_grid_thw" in batch else [None] * len(batch["pixel_values"])
        if "image_grid_thw" in batch:
            merge = self.processor.image_processor.merge_size
            grids = [(h // merge, w // merge) for _, h, w in shown]
        else:
            grids = [(round(count**0.5),) * 2 for count in counts]
        if len(shown) != len(counts) or any(r * c != n for (r, c), n in zip(grids, counts, strict=False)):
            raise ValueError(
                f"{self.name}: {counts} image tokens are not one grid over each image ({len(shown)} pictures for "
                f"{len(counts)} images, grids {grids}); show it images that its processor does not cut into tiles"
            )
        return grids


class ItemGaze(Record):
    """One item's part in the figures. ``inside`` is variant -> model -> share of the map inside the region: the
    item's own where it is faulty, another item's, laid over it, where it is clean.
    """

    item_id: str
    faulty: bool
    area: float  # of that region, share of the image
    inside: dict[str, dict[str, float]]
    scores: dict[str, float]  # model -> P(Yes)


class AttentionReport(Record):
    """How well maps agree with ground truth: share inside over area.

    Figures of ``localization`` (variant -> model): on ``faulty`` and on ``clean`` images, ``excess``, their difference,
    and on the faulty ones of which the model said Yes (``said_yes``) or not (``said_no``). ``differences``: variant ->
    "B - A" -> those of ``PAIRED``, on the same resampled images.
    """

    benchmark: str
    benchmark_sha256: str
    question: str
    n: int
    n_faulty: int
    models: dict[str, str]  # name -> weights sha256
    layers: dict[str, tuple[int, ...]]  # name -> layers averaged over, from 0
    depth: dict[str, int]
    notes: dict[str, str]  # name -> what was shown otherwise than in an evaluation, "" for nothing
    on_image: dict[str, Interval]
    localization: dict[str, dict[str, dict[str, Interval]]]
    differences: dict[str, dict[str, dict[str, Interval]]]
    items: tuple[ItemGaze, ...]


def coverage(region: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each cell that a bool mask [H, W] covers, float64 [rows, columns]; area-exact."""
    rows, columns = (_overlaps(cells, pixels) for cells, pixels in zip(grid, region.shape, strict=True))
    return rows @ region.astype(np.float64) @ columns.T


def _overlaps(cells: int, pixels: int) -> np.ndarray:
    """Share of each of ``cells`` equal intervals that each of ``pixels`` takes, float64 [cells, pixels]."""
    edges, start = np.linspace(0, pixels, cells + 1)[:, None], np.arange(pixels)
    shared = np.minimum(edges[1:], start + 1) - np.maximum(edges[:-1], start)
    return np.clip(shared, 0, None) * cells / pixels


def share_inside(heat: np.ndarray, region: np.ndarray) -> float:
    """Share of a map [rows, columns] inside a bool mask [H, W] of the image it lies over."""
    return float((heat * coverage(region, heat.shape)).sum())


def localize(items: Sequence[BenchmarkItem], gazes: Mapping[str, Sequence[Gaze]], seed: int = 0) -> list[ItemGaze]:
    """Shares inside regions. Faulty items without a region are left out; clean ones borrow the region of a faulty item
    drawn by ``seed``, at the same place of the image and of the same share of it.

    Raises ValueError without any faulty item that has a region.
    """
    donors = [item for item in items if item.faulty and item.localizable]
    if not donors:
        raise ValueError(f"none of {len(items)} items is faulty with a ground-truth region; attention needs one")
    drawn = random.Random(seed)
    found = []
    for k, item in enumerate(items):
        if item.faulty and not item.localizable:
            continue
        region = (item if item.faulty else drawn.choice(donors)).truth()
        inside = {
            variant: {model: share_inside(getattr(rows[k], variant), region) for model, rows in gazes.items()}
            for variant in VARIANTS
        }
        scores = {model: rows[k].score for model, rows in gazes.items()}
        area = float(region.mean())
        found.append(ItemGaze(item_id=item.item_id, faulty=item.faulty, area=area, inside=inside, scores=scores))
    return found


def _summary(found: Sequence[ItemGaze], section: EvaluationSection) -> dict[str, Any]:
    """``localization`` and ``differences`` of an AttentionReport, images resampled."""
    weights = draw_weights(len(found), section.resamples, section.seed)
    first, *others = found[0].scores
    tables = {
        variant: {model: _statistics(found, variant, model) for model in (first, *others)} for variant in VARIANTS
    }
    localization = {
        variant: {
            model: {name: interval(score.statistic, weights, score.n) for name, score in rows.items()}
            for model, rows in table.items()
        }
        for variant, table in tables.items()
    }
    differences = {
        variant: {
            f"{model} - {first}": {
                name: difference(table[model][name].statistic, base.statistic, weights, base.n)
                for name, base in table[first].items()
                if name in PAIRED
            }
            for model in others
        }
        for variant, table in tables.items()
    }
    return {"localization": localization, "differences": differences}


def _statistics(found: Sequence[ItemGaze], variant: str, model: str) -> dict[str, Score]:
    """Ratios of sums over images: share inside to area. A part without images is left out."""
    inside = np.array([row.inside[variant][model] for row in found])
    area = np.array([row.area for row in found])
    faulty = np.array([row.faulty for row in found])
    yes = np.array([row.scores[model] >= 0.5 for row in found])
    parts = {"faulty": faulty, "clean": ~faulty, "said_yes": faulty & yes, "said_no": faulty & ~yes}
    scores = {
        name: Score(ratio_of(inside * chosen, area * chosen), int(chosen.sum()))
        for name, chosen in parts.items()
        if chosen.any()
    }
    if "clean" in scores:
        on_fault, on_clean = scores["faulty"].statistic, scores["clean"].statistic
        scores["excess"] = Score(lambda drawn: on_fault(drawn) - on_clean(drawn), len(found))
    return scores


def attend(
    models: Sequence[CheckpointRef], benchmark: BenchmarkSet, section: EvaluationSection, layers: int | None = None
) -> tuple[AttentionReport, dict[str, dict[str, Gaze]]]:
    """Figures, and the maps behind them: model -> item id -> gaze, of ``section.limit`` items.

    The models are loaded one after another; the first is what the others are compared with. Raises ValueError for two
    models of one name and for what ``localize`` cannot measure.
    """
    items = read_truth(benchmark, section.limit)
    if len({model.name for model in models}) != len(models):
        raise ValueError(f"models {[model.name for model in models]}: expected distinct names; rename a folder")
    gazes: dict[str, list[Gaze]] = {}
    seen: dict[str, tuple[tuple[int, ...], int, str]] = {}
    for model in models:
        reader = GazeReader(model, section, layers)
        images = read_items(benchmark, section.limit)
        with tqdm(desc=f"attention {model.name}", unit="image", total=len(items)) as progress:
            gazes[model.name] = []
            while batch := list(itertools.islice(images, section.batch_size)):
                gazes[model.name] += reader.read([decode(data) for _, data in batch])
                progress.update(len(batch))
        seen[model.name] = reader.layers, reader.depth, reader.note
        del reader
    found = localize(items, gazes, section.seed)
    report = AttentionReport(
        benchmark=benchmark.name,
        benchmark_sha256=benchmark_sha256(benchmark),
        question=prompts.render(prompts.BINARY),
        n=len(found),
        n_faulty=sum(row.faulty for row in found),
        models={model.name: model.sha256 for model in models},
        layers={name: layers for name, (layers, _, _) in seen.items()},
        depth={name: depth for name, (_, depth, _) in seen.items()},
        notes={name: note for name, (_, _, note) in seen.items()},
        on_image={name: _mean_on_image(rows, section) for name, rows in gazes.items()},
        items=tuple(found),
        **_summary(found, section),
    )
    ids = [item.item_id for item in items]
    return report, {model: dict(zip(ids, rows, strict=True)) for model, rows in gazes.items()}


def _mean_on_image(gazes: Sequence[Gaze], section: EvaluationSection) -> Interval:
    values = np.array([gaze.on_image for gaze in gazes])
    return interval(mean_of(values), draw_weights(len(values), section.resamples, section.seed))


def _spread(values: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Values [rows * columns] as a map that adds up to 1; an even spread where all are 0."""
    total = values.sum()
    return (values / total if total > 0 else np.full(len(values), 1 / len(values))).reshape(grid)
