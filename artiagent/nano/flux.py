"""Recipe of nano-FLUX: rendered scenes -> autoencoder -> latent cache -> text-conditioned flow -> FluxPipeline folder.

`python -m artiagent.nano.flux --help` shows how to run it. A killed run continues where its last checkpoint was; a
usable folder is exported early and replaced every few minutes.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from artiagent.nano.export import replacing
from artiagent.nano.flux_export import assemble, export_folder
from artiagent.nano.flux_text import (
    build_clip_tokenizer,
    build_t5_tokenizer,
    caption_words,
    check_caption_lengths,
)
from artiagent.nano.flux_transformer import LatentCache, TextConditionedFlow, build_flow, pack, train_flow
from artiagent.nano.flux_vae import CHANNELS, encode_latents, train_vae
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, describe_machine
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene


@dataclass(frozen=True)
class FluxRecipe:
    """Sizes and budgets. `scenes` feed stage B, the first `vae_scenes` of them stage A, `held_out` neither."""

    vae: Schedule = Schedule(seconds=12 * 60, learning_rate=2e-3, batch=16)
    flow: Schedule = Schedule(seconds=60 * 60, learning_rate=1.5e-3, batch=24, warmup=300)
    size: int = 128
    scenes: int = 16_000
    vae_scenes: int = 3_000
    held_out: int = 128
    channels: tuple[int, ...] = CHANNELS
    first_export_seconds: float = 480.0
    export_seconds: float = 600.0


def train_flux(
    out: Path,
    work: Path,
    *,
    vae_minutes: float = 12.0,
    minutes: float = 60.0,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    recipe: FluxRecipe | None = None,
) -> dict[str, Any]:
    """Train nano-FLUX, write the folder `out`, return its training report.

    `work` keeps checkpoints and the latent cache; calling again with the same arguments resumes. `device` is CUDA
    where there is one. Raises ValueError for a checkpoint of other sizes or captions beyond the token limit.
    """
    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe or FluxRecipe()
    recipe = replace(
        recipe,
        vae=replace(recipe.vae, seconds=vae_minutes * 60),
        flow=replace(recipe.flow, seconds=minutes * 60),
    )
    autocast = bf16_is_native(device)
    report = {"recipe": asdict(recipe), "seed": seed, "bf16": autocast, **describe_machine(device, threads)}

    held_images, held_captions = render_scenes(_held_out(recipe), recipe.size)
    vae, report["vae"] = finished_vae(held_images[:32], recipe, work, seed=seed, device=device, autocast=autocast)
    began = time.perf_counter()
    latents, captions = cached_latents(vae, recipe, work / "latents.safetensors")
    clip, t5 = build_tokenizers(captions)
    cache = build_cache(latents, captions, clip, t5)
    held = build_cache(pack(encode_latents(vae, held_images)).cpu(), held_captions, clip, t5)
    report["cache_seconds"] = round(time.perf_counter() - began, 1)
    exporter = Exporter(out, vae, clip, t5, report, recipe)
    flow, progress = train_flow(
        build_flow(clip, t5, latents.shape[2], seed).to(device), cache, held, recipe.flow, work / "flow.safetensors",
        seed=seed, autocast=autocast, on_export=exporter,
    )  # fmt: skip
    exporter.export(flow, progress)
    return exporter.report


@dataclass
class Exporter:
    """Writes the folder when it is due: early once, then at an interval of training time."""

    out: Path
    vae: AutoencoderKL
    clip: Any
    t5: Any
    report: dict[str, Any]
    recipe: FluxRecipe
    due: float = 0.0

    def __post_init__(self) -> None:
        self.due = self.recipe.first_export_seconds

    def __call__(self, flow: TextConditionedFlow, progress: Progress) -> None:
        if progress.seconds >= self.due:
            self.due = progress.seconds + self.recipe.export_seconds
            self.export(flow, progress)

    def export(self, flow: TextConditionedFlow, progress: Progress) -> None:
        """Export the given weights whatever the time."""
        self.report["flow"] = asdict(progress)
        export_folder(assemble(self.vae, flow, self.clip, self.t5, torch.float16), self.out, self.report)


def _held_out(recipe: FluxRecipe) -> range:
    return range(recipe.scenes, recipe.scenes + recipe.held_out)


def finished_vae(
    held_out: Tensor, recipe: FluxRecipe, work: Path, *, seed: int, device: str, autocast: bool
) -> tuple[AutoencoderKL, dict[str, Any]]:
    """The autoencoder of `work` with its progress, trained first if need be.

    Once finished it stays as it is, statistics included, since the latent cache and the flow are built on it; delete
    the work folder to train another.
    """
    folder = work / "vae"
    if not folder.exists():
        images, _ = render_scenes(range(recipe.vae_scenes), recipe.size)
        vae, progress = train_vae(
            images, held_out, recipe.vae, work / "vae.safetensors",
            channels=recipe.channels, seed=seed, device=device, autocast=autocast,
        )  # fmt: skip
        with replacing(folder) as fresh:
            vae.save_pretrained(fresh, safe_serialization=True)
            (fresh / "progress.json").write_text(json.dumps(asdict(progress)))
    vae = AutoencoderKL.from_pretrained(folder, dtype=torch.float32).eval().to(device)
    return vae, json.loads((folder / "progress.json").read_text())


def render_scenes(indices: range, size: int) -> tuple[Tensor, list[str]]:
    """Training scenes number `indices` as uint8 [N, size, size, 3] with their captions."""
    seeds = [TRAIN_SEEDS[index] for index in indices]
    scenes = [render_scene(seed, size=size) for seed in tqdm(seeds, desc="render", unit="scene", mininterval=5)]
    return torch.stack([torch.from_numpy(scene.image) for scene in scenes]), [scene.caption for scene in scenes]


def cached_latents(vae: AutoencoderKL, recipe: FluxRecipe, path: Path) -> tuple[Tensor, list[str]]:
    """Packed latents float16 [N, L, C] and captions of all training scenes, rendered and encoded once.

    The cache is dropped when the autoencoder's statistics changed, that is, when it belongs to another training.
    """
    stamp = torch.tensor([vae.config.shift_factor, vae.config.scaling_factor, recipe.scenes], dtype=torch.float64)
    if path.exists():
        stored = load_file(path)
        if torch.equal(stored["stamp"], stamp):
            return stored["latents"], bytes(stored["captions"].tolist()).decode().split("\n")
    parts: list[Tensor] = []
    captions: list[str] = []
    for start in range(0, recipe.scenes, 1000):
        images, texts = render_scenes(range(start, min(start + 1000, recipe.scenes)), recipe.size)
        parts.append(pack(encode_latents(vae, images)).half().cpu())
        captions += texts
    latents = torch.cat(parts)
    text = torch.tensor(list("\n".join(captions).encode()), dtype=torch.uint8)
    partial = path.with_suffix(".partial")
    save_file({"latents": latents, "captions": text, "stamp": stamp}, partial)
    os.replace(partial, path)
    return latents, captions


def build_tokenizers(captions: Sequence[str]) -> tuple[Any, Any]:
    """CLIP and T5 tokenizers over the words of `captions`; raises ValueError when one exceeds the token limit."""
    words = caption_words(captions)
    tokenizers = build_clip_tokenizer(words), build_t5_tokenizer(words)
    for tokenizer in tokenizers:
        check_caption_lengths(tokenizer, set(captions))
    return tokenizers


def build_cache(latents: Tensor, captions: Sequence[str], clip: Any, t5: Any) -> LatentCache:
    """Join packed latents [N, L, C] with the token ids of their captions and of the empty prompt."""

    def ids(tokenizer: Any, texts: Sequence[str]) -> Tensor:
        return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids

    return LatentCache(
        latents, ids(clip, captions), ids(t5, captions), ids(clip, [""]), ids(t5, [""]), round(latents.shape[1] ** 0.5)
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m artiagent.nano.flux",
        description="Train nano-FLUX on rendered scenes and export a FluxPipeline folder.",
        epilog="examples:\n"
        "  python -m artiagent.nano.flux                                  the default, about 80 minutes\n"
        "  python -m artiagent.nano.flux --vae-minutes 4 --minutes 10     a first look\n"
        "  python -m artiagent.nano.flux --threads 8 --work runs/flux8    more cores; resumes from its work folder\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/weights/nano-flux"), help="folder to export")
    parser.add_argument("--work", type=Path, default=Path(".artiagent/train/flux"), help="checkpoints, latent cache")
    parser.add_argument("--vae-minutes", type=float, default=12.0, help="autoencoder training time (default 12)")
    parser.add_argument("--minutes", type=float, default=60.0, help="transformer training time (default 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    options = vars(parser.parse_args(arguments))
    report = train_flux(options.pop("out"), options.pop("work"), **options)
    print(f"held-out velocity loss {report['flow']['curve'][-1]['held_out_loss']}, ", end="")
    print(f"autoencoder PSNR {report['vae']['curve'][-1]['psnr']} dB")


if __name__ == "__main__":
    main()
