"""Trains nano-CLIP on clean scenes and their captions: ``python -m artiagent.nano.clip --minutes 10``.

An ordinary `CLIPModel` folder with its processor: patch 8, so 256 patch tokens of a 128 px image, 1.5 million
parameters. Its frozen image features feed the reward head, which needs more than captions ask for: the patch tokens,
`last_hidden_state[:, 1:]`, also learn what every patch shows and what it showed before the augmentation.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from artiagent.nano.augment import augmented_view
from artiagent.nano.export import replacing, write_training
from artiagent.nano.flux_text import TEXT_TOKENS, build_clip_tokenizer
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, describe_machine, fit
from artiagent.nano.patch_heads import PatchHeads, PatchTargets, patch_targets
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import CAPTION_WORDS, TRAIN_SEEDS, render_scene
from artiagent.nano.views import View, view_of

IMAGE_SIZE, PATCH = 128, 8
FIRST_SEED = TRAIN_SEEDS[500_000_000]
HELD_OUT_SEED = TRAIN_SEEDS[1_500_000_000]
EXPORT_SECONDS = 240.0


def build_processor() -> CLIPProcessor:
    """Resizes and crops to 128 px; one token per caption word."""
    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE}, crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    )
    return CLIPProcessor(image_processor=images, tokenizer=build_clip_tokenizer(list(CAPTION_WORDS)))


def build_model(
    tokenizer: CLIPTokenizer, *, seed: int = 0, hidden: int = 160, text_hidden: int = 128, depth: int = 4
) -> CLIPModel:
    """Freshly initialised; `depth` vision layers, half as many text layers, heads of 40 and 32."""
    torch.manual_seed(seed)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": text_hidden,
        "intermediate_size": 2 * text_hidden,
        "num_hidden_layers": max(1, depth // 2),
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": hidden,
        "intermediate_size": 3 * hidden,
        "num_hidden_layers": depth,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


@dataclass
class CaptionBatch:
    """B scenes: normalised pixels [B, 3, H, W], caption tokens [B, L] with mask, patch targets."""

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    targets: PatchTargets

    def to(self, device: str) -> CaptionBatch:
        return CaptionBatch(*(getattr(self, item.name).to(device) for item in fields(self)))


class Contrastive(nn.Module):
    """CLIP's symmetric loss plus the patch losses."""

    def __init__(self, model: CLIPModel):
        super().__init__()
        self.model = model
        self.heads = PatchHeads(model.config.vision_config.hidden_size)

    def forward(self, batch: CaptionBatch) -> Tensor:
        """Scalar loss; captions that occur twice in a batch count as right for each other."""
        seen = self.model.vision_model(pixel_values=batch.pixel_values)
        read = self.model.text_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        images = nn.functional.normalize(self.model.visual_projection(seen.pooler_output).float(), dim=-1)
        texts = nn.functional.normalize(self.model.text_projection(read.pooler_output).float(), dim=-1)
        logits = images @ texts.T * self.model.logit_scale.exp().clamp(max=100)
        same = (batch.input_ids[:, None] == batch.input_ids[None]).all(-1).float()
        right = same / same.sum(1, keepdim=True)
        loss = sum(nn.functional.cross_entropy(side, right) for side in (logits, logits.T)) / 2
        return loss + self.heads(seen.last_hidden_state[:, 1:], batch.targets)


def train_clip(
    out: Path,
    work: Path,
    *,
    minutes: float = 10.0,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    batch: int = 48,
    scenes: int = 8_000,
    learning_rate: float = 1e-3,
    steps: int | None = None,
    held_out: int = 200,
    **sizes: int,
) -> dict[str, object]:
    """Train for `minutes` of optimisation (or `steps`), resume from `work` after a kill, export to `out` now and then.

    `sizes` go to `build_model`. Returns what ``training.json`` in `out` holds. Raises ValueError when `work` holds a
    checkpoint of another recipe.
    """
    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    processor = build_processor()
    learner = Contrastive(build_model(processor.tokenizer, seed=seed, **sizes)).to(device)
    pool = ScenePool(FIRST_SEED + seed * scenes, scenes)
    schedule = Schedule(seconds=minutes * 60, learning_rate=learning_rate, batch=batch, steps=steps, warmup=100)
    recipe = {"seed": seed, "batch": batch, "scenes": scenes, "learning_rate": learning_rate}
    report = {"recipe": recipe, "hardware": describe_machine(device, threads)}
    autocast, exported = bf16_is_native(device), [0.0]

    def loss_of(learner: nn.Module, generator: torch.Generator, _: float) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        drawn = draw_captioned(pool, processor, batch, rng).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            return learner(drawn)

    def on_save(averaged: nn.Module, progress: Progress) -> dict[str, float]:
        if progress.seconds - exported[0] < EXPORT_SECONDS:
            return {}
        exported[0] = progress.seconds
        return export(out, averaged.model, processor, progress, report, held_out=held_out)["held_out"]

    averaged, progress = fit(
        learner, loss_of, schedule, work / "clip.safetensors", seed=seed, label="nano-CLIP", on_save=on_save
    )
    return export(out, averaged.model, processor, progress, report, held_out=held_out)


def draw_captioned(pool: ScenePool, processor: CLIPProcessor, count: int, rng: random.Random) -> CaptionBatch:
    """`count` augmented scenes whose caption still holds."""
    views: list[View] = []
    originals: list[View] = []
    while len(views) < count:
        scene = pool.draw(rng)
        view = augmented_view(scene, rng)
        if view.caption:
            views.append(view)
            originals.append(view_of(scene))
    captions = [view.caption for view in views]
    read = processor.tokenizer(captions, padding="max_length", max_length=TEXT_TOKENS, return_tensors="pt")
    pixels = normalised(np.stack([view.image for view in views]), processor)
    return CaptionBatch(pixels, read.input_ids, read.attention_mask, patch_targets(views, originals, PATCH))


def normalised(images: np.ndarray, processor: CLIPProcessor) -> Tensor:
    """uint8 [B, 128, 128, 3] -> [B, 3, 128, 128], as the processor does it for images that need no resizing."""
    settings = processor.image_processor
    mean, std = (torch.tensor(values)[:, None, None] for values in (settings.image_mean, settings.image_std))
    return (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - mean) / std


@torch.inference_mode()
def retrieval(model: CLIPModel, processor: CLIPProcessor, *, first_seed: int, scenes: int) -> dict[str, float]:
    """Share of held-out images whose own caption scores highest among all captions (a caption shared by two scenes
    counts for both), and of captions that find their image."""
    rendered = [render_scene(seed) for seed in range(first_seed, first_seed + scenes)]
    captions = [scene.caption for scene in rendered]
    inputs = processor(
        text=captions,
        images=[s.image for s in rendered],
        padding="max_length",
        max_length=TEXT_TOKENS,
        return_tensors="pt",
    )
    logits = model(**inputs).logits_per_image
    same = torch.tensor([[a == b for b in captions] for a in captions])
    rows = torch.arange(scenes)
    return {
        "image_to_text": round(float(same[rows, logits.argmax(1)].float().mean()), 4),
        "text_to_image": round(float(same[logits.argmax(0), rows].float().mean()), 4),
        "scenes": scenes,
    }


def export(
    out: Path,
    model: CLIPModel,
    processor: CLIPProcessor,
    progress: Progress,
    report: dict[str, object],
    *,
    held_out: int,
) -> dict[str, object]:
    """Write the folder (float16 weights), measured as it will be loaded; returns what ``training.json`` holds."""
    with replacing(out) as folder:
        copy.deepcopy(model).cpu().to(torch.float16).save_pretrained(folder)
        processor.save_pretrained(folder)
        loaded = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
        figures = retrieval(loaded, processor, first_seed=HELD_OUT_SEED, scenes=held_out)
        return write_training(folder, report, loaded, progress, figures)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train nano-CLIP on clean scenes of the nano world.")
    parser.add_argument("--out", type=Path, default=Path("data/weights/nano-clip"), help="model folder to write")
    parser.add_argument("--work", type=Path, default=Path(".artiagent/train/clip"), help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of optimisation")
    parser.add_argument("--steps", type=int, help="stop after so many steps, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    report = train_clip(**vars(parser.parse_args()))
    print(json.dumps({key: report[key] for key in ("steps", "images", "seconds", "held_out")}, indent=1))


if __name__ == "__main__":
    main()
