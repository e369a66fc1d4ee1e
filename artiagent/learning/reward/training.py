"""Stage "reward": curated pairs -> verifiers on disjoint sources, scored on sources that none of them saw.

Knows the order of things and what a finished folder holds. Does not know how pairs were made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import BenchmarkSet, RewardSection
from artiagent.devices import torch_device, use_threads
from artiagent.evaluation.benchmarks import benchmark_sha256
from artiagent.learning.reward import scores, views
from artiagent.learning.reward.fitting import Trainer
from artiagent.learning.reward.heads import Head, JointHead, extract, grid_of, new_head
from artiagent.learning.reward.pairs import PairSet, Split, read_pairs, split
from artiagent.learning.reward.towers import Tower, new_tower, open_tower
from artiagent.learning.reward.verifier import CONFIG, Member, Verifier, save_members
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.sealed import STAGES
from artiagent.store import write_atomic

CURVES, SCORES, FIGURES = "training.json", "scores.json", "figures.json"
CNN_SIDE = 128  # px, unless told otherwise
PAIR_BATCH = 16  # pairs that a frozen tower sees at a time
STANDARD = 256  # pairs from which mean and scale of the features are taken
ADAPTED = {"clip": ["q_proj", "v_proj"], "qwen": ["qkv"]}


def train_reward(
    section: RewardSection,
    curated: DatasetRef,
    encoder: CheckpointRef,
    out: Path,
    benchmarks: Sequence[BenchmarkSet] = (),
) -> CheckpointRef:
    """Train the verifiers on accepted pairs of scored groups and measure them; the first benchmark is the primary one.

    ``encoder``: CLIP or Qwen2.5-VL folder whose vision tower sees the pictures; of an encoder "cnn" it is not read.
    Goes on where a killed training was. Raises ValueError when there are too few pairs or ``out`` belongs to other
    inputs.
    """
    stamp = stable_hash(section.digest(), curated.digest, encoder.sha256, *map(benchmark_sha256, benchmarks))
    if (out / CONFIG).is_file():
        return _complete(out, stamp, encoder)
    use_threads(section.threads)
    tower = _tower(section, Path(encoder.uri), section.seed)
    with read_pairs(curated, tower.side, out) as pairs:
        parts = split(section, pairs.told, curated.uri)
        members, curve = _train(section, tower, encoder, pairs, parts, out, stamp)
        files = save_members(members, out)
        judge = Verifier(members, section.pooling, stamp, section.device)
        headline, figures = scores.measure(section, judge, pairs, parts, benchmarks)
    write_atomic(out / CURVES, json.dumps(curve, indent=1).encode())
    write_atomic(out / SCORES, json.dumps({k: v.model_dump() for k, v in headline.items()}, indent=1).encode())
    write_atomic(out / FIGURES, json.dumps(figures, indent=1).encode())
    told = {
        "stamp": stamp,
        "encoder": section.encoder,
        "encoder_name": "" if section.encoder == "cnn" else encoder.name,
        "encoder_sha256": "" if section.encoder == "cnn" else encoder.sha256,
        "pooling": section.pooling,
        "hidden": section.hidden,
        "members": section.members,
        "files": files,
    }
    write_atomic(out / CONFIG, json.dumps(told, indent=1).encode())
    shutil.rmtree(out / STAGES, ignore_errors=True)
    return _complete(out, stamp, encoder)


class FrozenFeatures:
    """Features of all views of some pairs, computed once; half precision, in memory. A `fitting.Drawn`."""

    def __init__(self, section: RewardSection, tower: Tower, pairs: PairSet, wanted: Sequence[int]) -> None:
        self.device, grid = torch_device(section.device), grid_of(tower, section.pooling)
        self.place = {pair: k for k, pair in enumerate(wanted)}
        tower.to(self.device)
        found, places = [], []
        for view in range(section.views):
            generator = torch.Generator().manual_seed(int(stable_hash("view", section.seed, view, length=12), 16))
            for chosen in _parts(wanted, f"reward features {view + 1}/{section.views}"):
                pixels, regions = _seen(*pairs.take(chosen), view, generator)
                with torch.inference_mode():
                    seen = extract(tower, pixels.flatten(0, 1).to(self.device), section.pooling)
                found.append(seen.unflatten(0, pixels.shape[:2]).half().cpu())
                places.append(_cells(regions, grid))
        self.features = torch.cat(found).unflatten(0, (section.views, -1))  # [V, P, 2, T, F]
        self.places = torch.cat(places).unflatten(0, (section.views, -1))  # [V, P, T]

    def __call__(self, chosen: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.tensor([self.place[pair] for pair in chosen])
        view = torch.randint(len(self.features), (len(index),), generator=generator)
        return self.features[view, index].float().to(self.device), self.places[view, index].to(self.device)


def _train(
    section: RewardSection, tower: Tower, encoder: CheckpointRef, pairs: PairSet, parts: Split, out: Path, stamp: str
) -> tuple[list[Member], list[dict]]:
    """The members, each on its own sources, and their curves one after the other."""
    members, curve = [], []
    used = sorted(pair for part in (*parts.members, *(parts.benign if section.benign else ())) for pair in part)
    frozen = FrozenFeatures(section, tower, pairs, used) if section.encoder == "frozen" else None
    for k, (chosen, benign) in enumerate(zip(parts.members, parts.benign, strict=True)):
        torch.manual_seed(section.seed * 1000 + k)
        own = tower if frozen else _trainable(section, Path(encoder.uri), section.seed * 1000 + k)
        own.to(torch_device(section.device))
        draw = frozen or partial(_on_the_fly, section, own, pairs)
        head = new_head(tower, section.pooling, section.hidden)
        _standardise(head, draw, chosen)
        head.to(torch_device(section.device))
        checkpoint = out / STAGES / f"verifier-{k}.safetensors"
        trained = None if frozen else own
        trainer = Trainer(section, str(k), draw, pairs.told, head, trained, checkpoint, f"{stamp}/{k}")
        curve += trainer.fit(chosen, benign)
        members.append(Member(_merged(own), head.eval()))
    return members, curve


def _on_the_fly(
    section: RewardSection, tower: Tower, pairs: PairSet, chosen: Sequence[int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random views, seen by a tower that is being trained."""
    pixels, regions = views.varied(*pairs.take(chosen), generator)
    device = next(tower.parameters()).device
    seen = extract(tower, pixels.flatten(0, 1).to(device), section.pooling)
    places = _cells(regions, grid_of(tower, section.pooling)).to(device)
    return seen.unflatten(0, pixels.shape[:2]), places


@torch.no_grad()
def _standardise(head: Head | JointHead, draw: FrozenFeatures | partial, chosen: Sequence[int]) -> None:
    """Mean and scale from a view of some training pairs."""
    generator = torch.Generator().manual_seed(0)
    some = [chosen[k : k + PAIR_BATCH] for k in range(0, min(len(chosen), STANDARD), PAIR_BATCH)]
    head.standardise(torch.cat([draw(batch, generator)[0].float().cpu().flatten(0, 1) for batch in some]))


def _tower(section: RewardSection, folder: Path, seed: int) -> Tower:
    torch.manual_seed(seed)
    if section.encoder == "cnn":
        return new_tower((section.side or CNN_SIDE) // 16 * 16, section.width)
    return open_tower(folder, section.side).requires_grad_(False)


def _trainable(section: RewardSection, folder: Path, seed: int) -> Tower:
    """A tower of its own for a member: fresh, with all its weights to train, or with adapters."""
    tower = _tower(section, folder, seed)
    if section.encoder == "lora":
        from peft import LoraConfig, get_peft_model

        wanted = LoraConfig(r=section.lora_rank, lora_alpha=2 * section.lora_rank, target_modules=ADAPTED[tower.kind])
        tower.model = get_peft_model(tower.model, wanted)
        return tower
    return tower.requires_grad_(True)


def _merged(tower: Tower) -> Tower:
    if hasattr(tower.model, "merge_and_unload"):
        tower.model = tower.model.merge_and_unload()
    return tower.requires_grad_(False).eval()


def _seen(pixels: Tensor, regions: Tensor, view: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if view == 0:
        return pixels, regions
    return views.mirrored(pixels, regions) if view == 1 else views.varied(pixels, regions, generator)


def _cells(regions: Tensor, grid: tuple[int, int]) -> Tensor:
    """[n, 1, S, S] -> [n, T]: 1 for the cells in which any of the region is."""
    return nn.functional.adaptive_max_pool2d(regions, grid).flatten(1)


def _parts(wanted: Sequence[int], title: str) -> Iterator[Sequence[int]]:
    with tqdm(desc=title, unit="pair", total=len(wanted)) as progress:
        for start in range(0, len(wanted), PAIR_BATCH):
            yield wanted[start : start + PAIR_BATCH]
            progress.update(min(PAIR_BATCH, len(wanted) - start))


def _complete(out: Path, stamp: str, encoder: CheckpointRef) -> CheckpointRef:
    if (found := json.loads((out / CONFIG).read_text())["stamp"]) != stamp:
        raise ValueError(
            f"{out}: holds verifiers made from other inputs ({found[:12]}, expected {stamp[:12]}); use another folder"
        )
    told = json.loads((out / SCORES).read_text())
    summary = {f"{name}_{key}": value for name, figures in told.items() for key, value in figures.items()}
    return checkpoint_ref("reward", str(out)).model_copy(update={"base_sha256": encoder.sha256, "summary": summary})
