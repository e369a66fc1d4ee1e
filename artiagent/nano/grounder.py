"""nano-grounder: nano-VL taught to find everything of a name: ``artiagent nano train grounder --minutes 55``.

Starts from all weights of nano-VL and asks one new question, "Locate every ... in the image", about entities and parts,
a quarter of the time about what is not there; grounding of one entity's part and captions stay in the mixture. Dense
targets and the loss of places are those of `vl.py`. New is that a coordinate which misses by one pixel is nearly right:
its target is a bell of a pixel's width over the integers and not one of them.
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

from artiagent.instruction import prompts
from artiagent.nano.augment import LIGHT_ONLY, augmented_view
from artiagent.nano.export import replacing, write_training
from artiagent.nano.grounding_evaluation import box_figures
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, describe_machine, fit
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import TRAIN_SEEDS
from artiagent.nano.vl import PLACE_WEIGHT, Pretraining
from artiagent.nano.vl_batches import Batch, Mixture, Packer, ask_many
from artiagent.nano.vl_evaluation import held_out_questions, score
from artiagent.nano.vl_model import IMAGE_SIZE, LARGEST_INTEGER, save_model
from artiagent.perception.grounding.vlm_boxes import VlmBoxes
from artiagent.vlm.local import LocalVlm
from artiagent.vlm.protocol import Sighted

FIRST_SEED = TRAIN_SEEDS[600_000_000]
HELD_OUT_SEED = TRAIN_SEEDS[1_600_000_000]
EXPORT_SECONDS = 480.0
ROW = 416  # tokens; lists of boxes are long
MOST_QUESTIONS = 14
HEADS_SHARE = 0.04  # of the budget: nano-VL came without its heads
SPREAD = 1.0  # px, standard deviation of a coordinate's target
MIXTURE: Mixture = {
    prompts.LOCATE_ALL: (0.72, 1.0), prompts.LOCATE_PART: (0.18, 1.0), prompts.DESCRIBE_IMAGE: (0.1, 1.0),
}  # fmt: skip


class Grounding(Pretraining):
    """`Pretraining` with soft targets for coordinates.

    `integers` are the token ids of 0, 1, 2, ...; no answer of the mixture has a number that is not a coordinate.
    """

    def __init__(self, model: Qwen2_5_VLForConditionalGeneration, integers: list[int]):
        super().__init__(model)
        values = torch.arange(len(integers), dtype=torch.float32)
        bells = torch.exp(-((values[:, None] - values) ** 2) / (2 * SPREAD**2))
        number_of = torch.full((model.config.text_config.vocab_size,), -1)
        number_of[integers] = torch.arange(len(integers))
        self.register_buffer("integers", torch.tensor(integers), persistent=False)
        self.register_buffer("bells", bells / bells.sum(1, keepdim=True), persistent=False)
        self.register_buffer("number_of", number_of, persistent=False)

    def forward(self, batch: Batch, settled: bool = True) -> Tensor:
        """Weighted token loss, patch losses and the loss of places; a scalar. Until the heads have `settled`, what they
        get wrong is their own fault and does not reach the model."""
        tokens, features, middle = self.encode(batch)
        if not settled:
            features, middle = features.detach(), middle.detach()
        flat = batch.labels.flatten()
        chosen = flat >= 0
        logits = self.model.lm_head(tokens.flatten(0, 1)[chosen]).float()
        weights = batch.weights.flatten()[chosen]
        answers = (self._token_losses(logits, flat[chosen]) * weights).sum() / weights.sum()
        return answers + self._patch_loss(batch, features) + PLACE_WEIGHT * self._place_loss(batch, middle)

    def _token_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[N]: cross entropy against the token, for integers against the bell around it less the bell's entropy."""
        chances = logits.log_softmax(-1)
        plain = -chances.gather(1, labels[:, None])[:, 0]
        number = self.number_of[labels]
        bells = self.bells[number.clamp(min=0)]
        soft = (bells * (bells.clamp(min=1e-12).log() - chances[:, self.integers])).sum(-1)
        return torch.where(number >= 0, soft, plain)


def integer_tokens(processor: Qwen2_5_VLProcessor) -> list[int]:
    """Token ids of 0 to 256. Raises ValueError for a tokenizer in which one of them is not one token."""
    ids = [processor.tokenizer(str(n), add_special_tokens=False).input_ids for n in range(LARGEST_INTEGER + 1)]
    if any(len(tokens) != 1 for tokens in ids):
        raise ValueError("the base model spells integers with several tokens; train from a nano-VL folder")
    return [tokens[0] for tokens in ids]


def train_grounder(
    out: Path,
    work: Path,
    *,
    base: Path = Path("data/weights/nano-vl"),
    minutes: float = 55.0,
    seed: int = 0,
    threads: int = 1,
    device: str | None = None,
    batch: int = 16,
    scenes: int = 12_000,
    learning_rate: float = 6e-4,
    steps: int | None = None,
    held_out: int = 200,
) -> dict[str, object]:
    """Train a copy of `base` for `minutes` (or `steps`), resume from `work` after a kill, export to `out` now and then.

    Returns what ``training.json`` in `out` holds. Raises ValueError when `work` holds another recipe's checkpoint.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    vlm = LocalVlm(base, "cpu", threads=threads)
    processor, model = vlm.processor, vlm.model.train()
    model.set_attn_implementation("eager")  # as in vl.py
    packer = Packer(processor, IMAGE_SIZE, ROW, MIXTURE)
    learner = Grounding(model, integer_tokens(processor)).to(device)
    pool = ScenePool(FIRST_SEED + seed * scenes, scenes)
    schedule = Schedule(seconds=minutes * 60, learning_rate=learning_rate, batch=batch, steps=steps)
    recipe = {"base": base.name, "seed": seed, "batch": batch, "scenes": scenes, "learning_rate": learning_rate}
    report = {"recipe": recipe, "hardware": describe_machine(device, threads)}
    autocast, exported = bf16_is_native(device), [0.0]

    def loss_of(learner: nn.Module, generator: torch.Generator, fraction: float) -> Tensor:
        rng = random.Random(int(torch.randint(2**62, (), generator=generator)))
        drawn = draw_batch(pool, packer, batch, rng).to(device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=autocast):
            return learner(drawn, fraction >= HEADS_SHARE)

    def on_save(averaged: nn.Module, progress: Progress) -> dict[str, float]:
        if progress.seconds - exported[0] < EXPORT_SECONDS:
            return {}
        exported[0] = progress.seconds
        figures = export(out, averaged, processor, progress, report, held_out=min(held_out, 30))["held_out"]
        return {f"{kind}_{name}": figures[kind][name] for kind in ("entities", "parts") for name in ("recall", "iou")}

    averaged, progress = fit(
        learner, loss_of, schedule, work / "grounder.safetensors", seed=seed, label="nano-grounder", on_save=on_save
    )
    return export(out, averaged, processor, progress, report, held_out=held_out)


def draw_batch(pool: ScenePool, packer: Packer, count: int, rng: random.Random) -> Batch:
    """`count` lightly augmented scenes with as many questions as a row takes."""
    views = [augmented_view(pool.draw(rng), rng, LIGHT_ONLY) for _ in range(count)]
    return packer.batch(views, [ask_many(view, rng, MOST_QUESTIONS, MIXTURE) for view in views], rng)


def export(
    out: Path,
    learner: Grounding,
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
        vlm = LocalVlm(folder, "cpu", threads=torch.get_num_threads())
        figures = box_figures(VlmBoxes(vlm), first_seed=HELD_OUT_SEED, scenes=held_out)
        figures |= {"caption_recall": caption_recall(vlm, held_out)}
        seconds = round(time.perf_counter() - began, 1)
        return write_training(folder, report, learner.model, progress, figures, evaluation_seconds=seconds)


def caption_recall(vlm: Sighted, scenes: int) -> float:
    """Share of the true caption's words that are said, as `vl_evaluation` measures it."""
    asked = held_out_questions(HELD_OUT_SEED, scenes)[prompts.DESCRIBE_IMAGE]
    said = vlm.generate([one.image for one in asked], [one.exchange.question() for one in asked], 40)
    scores = [score(*pair) or 0.0 for pair in zip(asked, said, strict=True)]
    return round(sum(scores) / max(1, len(scores)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Teach nano-VL to find everything of a name.")
    parser.add_argument("--out", type=Path, default=Path("data/weights/nano-grounder"), help="model folder to write")
    parser.add_argument("--base", type=Path, default=Path("data/weights/nano-vl"), help="nano-VL's folder")
    parser.add_argument("--work", type=Path, default=Path(".artiagent/train/grounder"), help="folder of the checkpoint")
    parser.add_argument("--minutes", type=float, default=55.0, help="minutes of optimisation")
    parser.add_argument("--steps", type=int, help="stop after so many steps, whatever the time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: CUDA where there is one")
    report = train_grounder(**vars(parser.parse_args()))
    print(json.dumps({key: report[key] for key in ("steps", "images", "seconds", "held_out")}, indent=1))


if __name__ == "__main__":
    main()
