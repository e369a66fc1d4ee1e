"""Pre-trains nano-VL on clean scenes: ``python -m artiagent.nano.vl --minutes 70``.

Captions, part grounding, "is there a part in this box", presence, counting, and where an augmentation altered the
picture. Beside the token loss, linear heads read off the image tokens what every patch shows (kinds, parts, mean
colour), what it showed before the augmentation (a denoising autoencoder over parts) and whether both are the same: the
masks are there anyway, they teach the vision tower long before the answers do, and they make it know what belongs
where. No image is called faulty and no fault of the benchmark is shown, but altered places are told from unaltered ones
here already; fine-tuning adds what to call them. The first part of the budget trains the vision tower alone, at twice
the speed. The heads are thrown away at export.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from artiagent.nano.augment import augmented_view
from artiagent.nano.export import replacing, write_training
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, describe_machine, fit
from artiagent.nano.patch_heads import PatchHeads
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import TRAIN_SEEDS
from artiagent.nano.views import view_of
from artiagent.nano.vl_batches import Batch, Packer, ask_many
from artiagent.nano.vl_evaluation import evaluate
from artiagent.nano.vl_model import IMAGE_SIZE, build_model, build_processor, build_tokenizer, save_model
from artiagent.vlm.local import LocalVlm

HELD_OUT_SEED = TRAIN_SEEDS[1_000_000_000]
EXPORT_SECONDS = 600.0
PLACE_WEIGHT = 3.0
VISION_SHARE = 0.45  # of the budget: the vision tower alone


class Pretraining(nn.Module):
    """The model with the heads that only its pre-training has: `PatchHeads` on the image tokens, and `places` on what
    the language model has made of them half way up, from which it has to say their row and column.

    Rotary attention knows distances only, so that a token does not know where it is. In the language model the token
    before the image is a fixed mark from which it can tell, and a box can be read off tokens that know.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration):
        super().__init__()
        self.model = model
        hidden = model.config.text_config.hidden_size
        self.heads = PatchHeads(hidden, model.config.vision_config.spatial_merge_size**2)
        self.places = nn.Linear(hidden, 2)

    def forward(self, batch: Batch, language: bool = True) -> Tensor:
        """Patch losses and, with `language`, the weighted token loss and the loss of places; a scalar."""
        if not language:
            return self._patch_loss(batch, self._image_tokens(batch))
        tokens, features, middle = self.encode(batch)
        flat = batch.labels.flatten()
        chosen = flat >= 0
        logits = self.model.lm_head(tokens.flatten(0, 1)[chosen])
        each = nn.functional.cross_entropy(logits.float(), flat[chosen], reduction="none")
        weights = batch.weights.flatten()[chosen]
        losses = self._patch_loss(batch, features) + PLACE_WEIGHT * self._place_loss(batch, middle)
        return (each * weights).sum() / weights.sum() + losses

    def _place_loss(self, batch: Batch, middle: Tensor) -> Tensor:
        """Squared error of row and column, -1 to 1, of the image tokens among `middle` [B, L, hidden]."""
        merge = self.model.config.vision_config.spatial_merge_size
        rows, columns = (batch.image_grid_thw[0, 1:] // merge).tolist()
        grid = torch.cartesian_prod(_middles(rows), _middles(columns)).to(middle.device)
        found = self.places(middle[batch.input_ids == self.model.config.image_token_id]).float()
        return nn.functional.mse_loss(found.view(len(middle), -1, 2), grid.expand(len(middle), -1, -1))

    def _patch_loss(self, batch: Batch, features: Tensor) -> Tensor:
        return self.heads(features, batch.targets)

    def _image_tokens(self, batch: Batch) -> Tensor:
        """[B * tokens, hidden]."""
        outputs = self.model.model.get_image_features(batch.pixel_values, batch.image_grid_thw, return_dict=True)
        return torch.cat(tuple(outputs.pooler_output))

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Last hidden states [B, L, hidden], image tokens [B * tokens, hidden] and the hidden states half way up
        [B, L, hidden] from the same forward pass."""
        core, features = self.model.model, self._image_tokens(batch)
        embedded = core.get_input_embeddings()(batch.input_ids)
        is_image = (batch.input_ids == self.model.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(is_image, features.to(embedded.dtype))
        where = embedded.device.type
        dtype = torch.get_autocast_dtype(where) if torch.is_autocast_enabled(where) else embedded.dtype
        mask = torch.zeros_like(batch.attention_mask, dtype=dtype).masked_fill_(~batch.attention_mask, -1e4)
        states = core.language_model(
            inputs_embeds=embedded, position_ids=batch.position_ids, attention_mask=mask, use_cache=False,
            output_hidden_states=True,
        )  # fmt: skip
        return states.last_hidden_state, features, states.hidden_states[len(states.hidden_states) // 2]


def _middles(count: int) -> Tensor:
    """Middles of `count` equal pieces of -1 to 1."""
    return (torch.arange(count) + 0.5) * 2 / count - 1


def train_vl(
    out: Path,
    work: Path,
    *,
    minutes: float = 70.0,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    batch: int = 16,
    scenes: int = 16_000,
    learning_rate: float = 1e-3,
    steps: int | None = None,
    held_out: int = 200,
    **sizes: int,
) -> dict[str, object]:
    """Train for `minutes` of optimisation (or `steps`), resume from `work` after a kill, export to `out` now and then.

    `scenes` distinct training scenes; `device` is CUDA where there is one; `sizes` go to `vl_model.build_model`.
    Returns what ``training.json`` in `out` holds. Raises ValueError when `work` holds a checkpoint of another recipe.
    """
    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    processor = build_processor(build_tokenizer())
    model = build_model(processor.tokenizer, seed=seed, **sizes)
    # Eager attention is a fifth faster than the fused CPU kernel at these lengths; the setting is not saved.
    model.set_attn_implementation("eager")
    packer = Packer(processor, IMAGE_SIZE)
    learner = Pretraining(model).to(device)
    pool = ScenePool(TRAIN_SEEDS[0] + seed * scenes, scenes)
    schedule = Schedule(seconds=minutes * 60, learning_rate=learning_rate, batch=batch, steps=steps)
    recipe = {"seed": seed, "batch": batch, "scenes": scenes, "learning_rate": learning_rate}
    report = {"recipe": recipe, "hardware": describe_machine(device, threads)}
    autocast, exported = bf16_is_native(device), [0.0]

    def loss_of(learner: nn.Module, generator: torch.Generator, fraction: float) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        language = fraction >= VISION_SHARE
        drawn = draw_batch(pool, packer, batch, rng, language).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            return learner(drawn, language)

    def on_save(averaged: nn.Module, progress: Progress) -> dict[str, float]:
        if progress.seconds - exported[0] < EXPORT_SECONDS:
            return {}
        exported[0] = progress.seconds
        return export(out, averaged, processor, progress, report, held_out=min(held_out, 40))["held_out"]

    averaged, progress = fit(
        learner, loss_of, schedule, work / "vl.safetensors", seed=seed, label="nano-VL", on_save=on_save
    )
    return export(out, averaged, processor, progress, report, held_out=held_out)


def draw_batch(pool: ScenePool, packer: Packer, count: int, rng: random.Random, language: bool = True) -> Batch:
    """`count` augmented scenes, with as many questions as a row takes where `language` is learned."""
    scenes = [pool.draw(rng) for _ in range(count)]
    views = [augmented_view(scene, rng) for scene in scenes]
    questions = [ask_many(view, rng, 14) if language else [] for view in views]
    return packer.batch(views, questions, rng, [view_of(scene) for scene in scenes])


def export(
    out: Path,
    learner: Pretraining,
    processor: Qwen2_5_VLProcessor,
    progress: Progress,
    report: dict[str, object],
    *,
    held_out: int,
) -> dict[str, object]:
    """Write the model folder, measured as it will be loaded; returns what its ``training.json`` holds."""
    with replacing(out) as folder:
        save_model(folder, learner.model, processor)
        began = time.perf_counter()
        scores = evaluate(
            LocalVlm(folder, "cpu", threads=torch.get_num_threads()), first_seed=HELD_OUT_SEED, scenes=held_out
        )
        seconds = round(time.perf_counter() - began, 1)
        return write_training(folder, report, learner.model, progress, scores, evaluation_seconds=seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pre-train nano-VL on clean scenes of the nano world.")
    parser.add_argument("--out", type=Path, default=Path("data/weights/nano-vl"), help="model folder to write")
    parser.add_argument(
        "--work", type=Path, default=Path(".artiagent/train/vl"), help="folder of the resumable checkpoint"
    )
    parser.add_argument("--minutes", type=float, default=70.0, help="minutes of optimisation")
    parser.add_argument("--steps", type=int, help="stop after so many steps, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    arguments = parser.parse_args()
    report = train_vl(**vars(arguments))
    print(json.dumps({key: report[key] for key in ("steps", "images", "seconds", "held_out")}, indent=1))


if __name__ == "__main__":
    main()
