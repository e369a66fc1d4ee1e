"""Stage "reward": a Bradley-Terry head on frozen CLIP features of curated pairs (spec: training, "Reward model").

Knows features, head, loss and pairwise accuracy. Does not know how pairs were made. Loss: ``-log sigmoid(r(clean) -
r(artifact))`` over the pairs of a batch plus a few cross-scene pairs (clean of scene A, artifact of scene B), so that
rewards of different scenes share a scale. Features of the frozen encoder are computed once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoImageProcessor, CLIPModel

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import BenchmarkSet, RewardSection
from artiagent.devices import torch_device, use_threads
from artiagent.evaluation.benchmarks import benchmark_sha256, read_items
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.metrics import auroc, ratio_of
from artiagent.images import decode
from artiagent.instruction.conversations import split_of, usable
from artiagent.records import CheckpointRef, DatasetRef, Interval, Pair, stable_hash
from artiagent.store import read_rows, write_atomic

HEAD, CONFIG, CURVES, SCORES = "head.safetensors", "config.json", "training.json", "scores.json"
FEATURE_BATCH = 64


class RewardHead(nn.Module):
    """Standardised features -> reward [B]. Mean and scale are those of the training images.

    Features [B, F] are scored whole. Features of tokens [B, T, F] are scored token by token, and the worst ones decide:
    ``-logsumexp`` of their badness over T. An artifact is local, and so is what tells it.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        scored = self.layers((features.float() - self.mean) / self.scale)[..., 0]
        return scored if scored.ndim == 1 else -torch.logsumexp(-scored, dim=1)


@dataclass(frozen=True)
class PairFeatures:
    """Features of both sides [P, F] or [P, T, F] with the source of each pair."""

    clean: Tensor
    artifact: Tensor
    sources: tuple[str, ...]

    def take(self, chosen: Sequence[int]) -> PairFeatures:
        index = torch.tensor(list(chosen), dtype=torch.long)
        return PairFeatures(self.clean[index], self.artifact[index], tuple(self.sources[i] for i in chosen))


class Encoder:
    """Frozen CLIP image encoder.

    Args:
        folder: CLIPModel folder with its image processor.
        pooling: "pooled" is CLIP's own pooled output [D]; "patches" adds mean and maximum over the patch tokens [3 D]:
            an artifact is local, and the pooled output tells little of it. "tokens" keeps every patch token [T, D] in
            half precision: best where the set is small, 300 kB an image with ViT-B/16.
        device: name of the device.
    """

    def __init__(self, folder: str | Path, pooling: str, device: str) -> None:
        self.pooling, self.device = pooling, torch_device(device)
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.model = CLIPModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).vision_model
        self.model.to(self.device).eval()

    @torch.inference_mode()
    def __call__(self, images: Sequence[np.ndarray]) -> Tensor:
        """uint8 arrays [H, W, 3] -> features [B, F], or [B, T, F] of tokens, on the CPU."""
        pixels = self.processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
        output = self.model(pixel_values=pixels.to(self.device))
        if self.pooling == "pooled":
            return output.pooler_output.float().cpu()
        patches = self.model.post_layernorm(output.last_hidden_state[:, 1:])
        if self.pooling == "tokens":
            return patches.half().cpu()
        return torch.cat([output.pooler_output, patches.mean(1), patches.amax(1)], dim=1).float().cpu()


def train_reward(
    section: RewardSection, curated: DatasetRef, clip: CheckpointRef, out: Path, benchmark: BenchmarkSet | None = None
) -> CheckpointRef:
    """Train the head on accepted pairs of scored groups; write head, configuration, curve, held-out pairwise accuracy,
    and with ``benchmark`` the AUROC on its images.

    Raises ValueError when either split is empty or ``out`` belongs to other inputs.
    """
    measured_on = benchmark_sha256(benchmark) if benchmark else ""
    stamp = stable_hash(section.digest(), curated.digest, clip.sha256, measured_on)
    if (out / CONFIG).is_file():
        return _complete(out, stamp, clip)
    use_threads(section.threads)
    pairs = encode_pairs(section, curated, clip)
    splits = [split_of(source, section.val_share, section.seed) for source in pairs.sources]
    train, held = (pairs.take([i for i, s in enumerate(splits) if s == name]) for name in ("train", "val"))
    if not train.sources or len(set(held.sources)) < 2:
        raise ValueError(
            f"{curated.uri}: {len(train.sources)} pairs to train on and {len(set(held.sources))} held-out sources; "
            "expected some of the first and at least 2 of the second: make more pairs or change reward.val_share"
        )
    head, curve = fit_head(section, train)
    scores = pairwise_scores(section, head, held)
    if benchmark is not None:
        scores["benchmark_auroc"] = benchmark_auroc(section, head, clip, benchmark)
    out.mkdir(parents=True, exist_ok=True)
    save_file(head.state_dict(), out / HEAD)
    write_atomic(out / CURVES, json.dumps(curve, indent=1).encode())
    write_atomic(out / SCORES, json.dumps({k: v.model_dump() for k, v in scores.items()}, indent=1).encode())
    config = {
        "stamp": stamp,
        "clip": clip.name,
        "clip_sha256": clip.sha256,
        "pooling": section.pooling,
        "hidden": section.hidden,
        "features": train.clean.shape[-1],
        "train_pairs": len(train.sources),
        "held_out_pairs": len(held.sources),
    }
    write_atomic(out / CONFIG, json.dumps(config, indent=1).encode())
    return _complete(out, stamp, clip)


def encode_pairs(section: RewardSection, curated: DatasetRef, clip: CheckpointRef) -> PairFeatures:
    """Features of all usable pairs, streamed image batch by image batch."""
    encoder = Encoder(clip.uri, section.pooling, section.device)
    clean, artifact, sources = [], [], []
    with tqdm(desc="reward features", unit="pair", total=curated.rows) as progress:
        for batch in _batched(read_rows(curated, Pair)):
            progress.update(len(batch))
            if rows := [row for row in batch if usable(row.record)]:
                features = encoder([decode(row.images[side]) for side in ("clean", "artifact") for row in rows])
                clean.append(features[: len(rows)])
                artifact.append(features[len(rows) :])
                sources += [row.record.source_id for row in rows]
    if not sources:
        raise ValueError(
            f"{curated.uri}: none of {curated.rows} pairs is accepted and in a scored group; see funnel.json"
        )
    return PairFeatures(torch.cat(clean), torch.cat(artifact), tuple(sources))


def fit_head(section: RewardSection, train: PairFeatures) -> tuple[RewardHead, list[dict[str, float]]]:
    """AdamW on the Bradley-Terry loss with an extra L2 term; returns the head and its curve (a point per epoch)."""
    generator = torch.Generator().manual_seed(section.seed)
    torch.manual_seed(section.seed)
    head = RewardHead(train.clean.shape[-1], section.hidden)
    sides = [side.flatten(0, -2).float() for side in (train.clean, train.artifact)]
    head.mean.copy_(torch.stack([side.mean(0) for side in sides]).mean(0))
    head.scale.copy_(torch.stack([side.var(0) for side in sides]).mean(0).sqrt().clamp(min=1e-6))
    optimizer = torch.optim.AdamW(head.parameters(), lr=section.learning_rate, weight_decay=section.weight_decay)
    curve = []
    for epoch in range(section.epochs):
        losses, correct = [], []
        for chosen in torch.randperm(len(train.sources), generator=generator).split(section.batch):
            first, second = _with_cross_scene(chosen, train.sources, section.cross_scene, generator)
            gap = head(train.clean[first]) - head(train.artifact[second])
            penalty = sum(weight.square().sum() for weight in head.parameters())
            loss = nn.functional.softplus(-gap).mean() + section.l2 * penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            correct.append((gap[: len(chosen)] > 0).float().mean().item())
        curve.append({"step": epoch + 1, "loss": float(np.mean(losses)), "pair_accuracy": float(np.mean(correct))})
    return head.eval(), curve


def pairwise_scores(section: RewardSection, head: RewardHead, held: PairFeatures) -> dict[str, Interval]:
    """Share of pairs in which the clean side has the higher reward (ties half), within a scene and across scenes.

    Intervals resample held-out *sources*, because variants of one source are alike; across, both sides are resampled.
    """
    with torch.inference_mode():
        clean, artifact = head(held.clean).numpy(), head(held.artifact).numpy()
    names, source = np.unique(np.array(held.sources), return_inverse=True)
    wins = (clean[:, None] > artifact[None]) + 0.5 * (clean[:, None] == artifact[None])
    member = np.eye(len(names))[source]
    within = np.bincount(source, weights=wins.diagonal()), np.bincount(source).astype(float)
    won, met = member.T @ wins @ member, member.T @ np.ones_like(wins) @ member
    np.fill_diagonal(won, 0.0)
    np.fill_diagonal(met, 0.0)
    weights = draw_weights(len(names), section.resamples, section.seed)

    def across(drawn: np.ndarray) -> np.ndarray:
        bottom = ((drawn @ met) * drawn).sum(1)
        top = ((drawn @ won) * drawn).sum(1)
        return np.divide(top, bottom, out=np.full(len(drawn), np.nan), where=bottom > 0)

    return {"within": interval(ratio_of(*within), weights), "across": interval(across, weights)}


def benchmark_auroc(section: RewardSection, head: RewardHead, clip: CheckpointRef, benchmark: BenchmarkSet) -> Interval:
    """How well a low reward tells the faulty images of a benchmark; the interval resamples images."""
    faulty: list[bool] = []

    def pictures() -> Iterator[np.ndarray]:
        for item, data in read_items(benchmark):
            faulty.append(item.faulty)
            yield decode(data)

    found = _scored(head, Encoder(clip.uri, section.pooling, section.device), pictures())
    weights = draw_weights(len(faulty), section.resamples, section.seed)
    return interval(auroc(np.array(faulty), -found), weights)


def rewards(
    reward: CheckpointRef, clip: CheckpointRef, images: Sequence[np.ndarray], device: str = "auto"
) -> np.ndarray:
    """Reward of each image, float32 [n], from a trained folder. Raises ValueError for another encoder than it was
    trained on.
    """
    folder = Path(reward.uri)
    config = json.loads((folder / CONFIG).read_text())
    if config["clip_sha256"] != clip.sha256:
        raise ValueError(
            f"{reward.uri}: trained on {config['clip']} ({config['clip_sha256'][:12]}), got {clip.sha256[:12]}"
        )
    head = RewardHead(config["features"], config["hidden"])
    head.load_state_dict(load_file(folder / HEAD))
    return _scored(head, Encoder(clip.uri, config["pooling"], device), images)


def _scored(head: RewardHead, encoder: Encoder, images: Iterable[np.ndarray]) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([head(encoder(batch)) for batch in _batched(images)]).numpy()


def _with_cross_scene(
    chosen: Tensor, sources: tuple[str, ...], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of (clean, artifact) sides: the batch's own pairs and ``count`` pairs of two different scenes."""
    if len(set(sources)) < 2:
        return chosen, chosen
    first, second = list(chosen), list(chosen)
    while len(first) < len(chosen) + count:
        a, b = torch.randint(len(sources), (2,), generator=generator)
        if sources[a] != sources[b]:
            first.append(a)
            second.append(b)
    return torch.stack(first), torch.stack(second)


def _batched(items: Iterable) -> Iterator[list]:
    rest = iter(items)
    while batch := list(islice(rest, FEATURE_BATCH)):
        yield batch


def _complete(out: Path, stamp: str, clip: CheckpointRef) -> CheckpointRef:
    if (found := json.loads((out / CONFIG).read_text())["stamp"]) != stamp:
        raise ValueError(
            f"{out}: holds a head made from other inputs ({found[:12]}, expected {stamp[:12]}); use another folder"
        )
    scores = json.loads((out / SCORES).read_text())
    summary = {f"{name}_{key}": value for name, figures in scores.items() for key, value in figures.items()}
    return checkpoint_ref("reward", str(out)).model_copy(update={"base_sha256": clip.sha256, "summary": summary})
