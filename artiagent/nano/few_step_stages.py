"""Stages of nano-schnell and nano-fill: guided flow, its four-step student, repair network, its student.

Each stage leaves its weights and what it measured in the work folder, and is only read from there once it has ended.
Knows nothing of diffusers' pipelines or of folders to export.
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from artiagent.nano.anatomy import PartJudge
from artiagent.nano.distill import PIECES, Paths, Prompts, chord_loss, guided_path, record_paths
from artiagent.nano.fill import draw_masks, fill_condition, fill_weights, start_from
from artiagent.nano.flux_transformer import (
    TextConditionedFlow,
    adopt,
    build_flow,
    held_out_loss,
    unpack,
    velocity_loss,
)
from artiagent.nano.flux_vae import decode_latents
from artiagent.nano.latent_pool import LatentPool
from artiagent.nano.loop import Progress, Schedule, bf16_is_native, fit
from artiagent.store import write_atomic

# Of the minutes: two stages of flow matching, two of distillation, and the recording of paths before each of these.
TIME_SHARES = {"base": 0.48, "schnell-paths": 0.07, "schnell": 0.1, "fill-base": 0.2, "fill-paths": 0.06, "fill": 0.09}


@dataclass(frozen=True)
class FewStepRecipe:
    """Sizes and budgets. `double` and `single` are the transformer's blocks; `judged` pictures decide on a guidance.

    `from_noise`: random weights at first instead of nano-FLUX's.
    """

    minutes: float = 6.0
    batch: int = 768
    learning_rates: dict[str, float] = field(
        default_factory=lambda: {"base": 1.5e-3, "schnell": 6e-4, "fill-base": 1.2e-3, "fill": 6e-4}
    )
    warmup: int = 200
    steps: int | None = None
    size: int = 128
    double: int = 2
    single: int = 6
    scenes: int = 96_000
    first_scenes: int = 1_000
    held_out: int = 256
    paths: int = 64_000
    guidances: tuple[float, ...] = (1.5, 2.5, 3.5)
    fill_guidances: tuple[float, ...] = (1.0, 1.75, 2.5)
    judged: int = 256
    from_noise: bool = False

    def schedule(self, stage: str) -> Schedule:
        """Budget and learning rate of `stage`."""
        return Schedule(
            seconds=self.seconds(stage),
            learning_rate=self.learning_rates[stage],
            batch=self.batch,
            steps=self.steps,
            warmup=self.warmup,
            save_seconds=60.0 if self.minutes < 30 else 300.0,
        )

    def seconds(self, stage: str) -> float:
        """Seconds of optimisation, or of recording paths."""
        return TIME_SHARES[stage] * self.minutes * 60


class Bench:
    """The stages, each from its predecessor's network to its own; what they report lies in `report`."""

    def __init__(
        self,
        pool: LatentPool,
        recipe: FewStepRecipe,
        work: Path,
        seed: int,
        judge: PartJudge,
        device: str,
        compiled: bool,
    ):
        """`work`: folder of weights, checkpoints, report and sheets. `compiled`: compile the blocks on CUDA."""
        self.pool, self.recipe, self.work, self.seed, self.judge, self.device = (
            pool, recipe, work, seed, judge, device,
        )  # fmt: skip
        self.autocast, self.compiled = bf16_is_native(device), compiled and device == "cuda"
        # With it on, a compiled backward pass read an illegal address (torch 2.11, H200); without, all went well.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.channels = pool.cache.latents.shape[2]
        self.generator = torch.Generator(device).manual_seed(seed + 1)
        self.report: dict[str, Any] = {"recipe": asdict(recipe), "bf16": self.autocast}
        if (work / "training.json").is_file():
            self.report |= json.loads((work / "training.json").read_text())

    def train_base(self, flux: Path) -> TextConditionedFlow:
        """Rectified flow from captions, with the empty caption for guidance; goes on from the weights of `flux`."""
        pool, recipe = self.pool, self.recipe
        flow = self._fresh() if recipe.from_noise else adopt(self._fresh(), flux)

        def loss_of(model: TextConditionedFlow, generator: torch.Generator, _: float) -> Tensor:
            pool.grow()
            with self._bf16():
                return velocity_loss(model, pool.cache, pool.draw(recipe.batch, generator), generator)

        return self._stage("base", flow, loss_of, measure=self._held_out)

    def train_schnell(self, base: TextConditionedFlow) -> TextConditionedFlow:
        """The guided base in four steps without guidance."""
        student = self._copy(base)
        if (done := self._finished("schnell", student)) is not None:
            return done
        judged = self.pool.single(self.recipe.judged)
        captions = [self.pool.captions[number] for number in judged]

        def share(draw: Callable[[Tensor, Tensor, None], Tensor], name: str) -> float:
            pictures = self._pictures(draw, judged, None)
            self._sheet(name, [pictures[:32]])
            return float(1 - self.judge.faulty(list(pictures), captions).mean())

        shares = {g: share(self._guided(base, g), f"base-{g}") for g in self.recipe.guidances}
        guidance = self._chosen("schnell", shares)
        paths = self._paths("schnell-paths", self._guided(base, guidance))
        student = self._stage("schnell", student, self._chords(paths))
        self._note(schnell_faultless=share(self._plain(student), "schnell"))
        return student

    def train_fill_base(self, base: TextConditionedFlow) -> TextConditionedFlow:
        """The base learns to see a masked picture."""
        pool, recipe = self.pool, self.recipe

        def loss_of(model: TextConditionedFlow, generator: torch.Generator, _: float) -> Tensor:
            pool.grow()
            index = pool.draw(recipe.batch, generator)
            condition = self._condition(index, generator)
            with self._bf16():
                return velocity_loss(
                    model, pool.cache, index, generator,
                    condition=condition, weights=fill_weights(condition, self.channels),
                )  # fmt: skip

        return self._stage("fill-base", start_from(self._fresh(self._conditions()), base), loss_of)

    def train_fill(self, teacher: TextConditionedFlow) -> TextConditionedFlow:
        """The guided repair in a few steps without guidance."""
        student = start_from(self._fresh(self._conditions()), teacher)
        if (done := self._finished("fill", student)) is not None:
            return done
        judged = self.pool.single(self.recipe.judged)
        index = torch.tensor(judged, device=self.device)
        masks = self._masks(index, self.generator)
        condition = fill_condition(self.pool.vae, self.pool.images[index], masks, self.generator)
        originals = self._originals(judged)

        def share(draw: Callable[[Tensor, Tensor, Tensor], Tensor], name: str) -> float:
            pictures = self._pictures(draw, judged, condition)
            grey = np.where(masks.cpu().numpy()[..., None], np.uint8(128), originals)
            self._sheet(name, [originals[:16], grey[:16], pictures[:16]])
            return float(self.judge.restored(list(pictures), list(originals)).mean())

        shares = {g: share(self._guided(teacher, g), f"fill-base-{g}") for g in self.recipe.fill_guidances}
        guidance = self._chosen("fill", shares)
        paths = self._paths("fill-paths", self._guided(teacher, guidance), conditioned=True)
        student = self._stage(
            "fill", student, self._chords(paths, lambda condition: fill_weights(condition, self.channels))
        )
        self._note(fill_same_parts=share(self._plain(student), "fill"))
        return student

    def _fresh(self, conditions: int = 0) -> TextConditionedFlow:
        pool, recipe = self.pool, self.recipe
        flow = build_flow(
            pool.clip, pool.t5, self.channels, self.seed,
            conditions=conditions, double=recipe.double, single=recipe.single,
        )  # fmt: skip
        return flow.to(self.device)

    def _copy(self, flow: TextConditionedFlow) -> TextConditionedFlow:
        twin = self._fresh()
        twin.load_state_dict(flow.state_dict())
        return twin

    def _conditions(self) -> int:
        """Channels of a token's condition: the masked latents and the pixels of the mask."""
        return self.channels + (self.recipe.size // self.pool.cache.side) ** 2

    def _condition(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return fill_condition(self.pool.vae, self.pool.images[index], self._masks(index, generator), generator)

    def _masks(self, index: Tensor, generator: torch.Generator) -> Tensor:
        return draw_masks(self.pool.parts[index], self.pool.entities[index], self.recipe.size, generator)

    def _bf16(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.autocast)

    def _held_out(self, flow: TextConditionedFlow) -> dict[str, float]:
        with torch.compiler.set_stance("force_eager"), self._bf16():  # another batch size would compile once more
            return {"held_out_loss": round(held_out_loss(flow, self.pool.held()), 5)}

    def _stage(
        self,
        name: str,
        flow: TextConditionedFlow,
        loss_of: Callable[[TextConditionedFlow, torch.Generator, float], Tensor],
        measure: Callable[[TextConditionedFlow], dict[str, float]] = lambda _: {},
    ) -> TextConditionedFlow:
        """The moving average after training on `loss_of`, kept as float16 in `work`; a finished stage is only read."""
        if (done := self._finished(name, flow)) is not None:
            return done
        if self.compiled:
            compile_blocks(flow)
            loss_of(flow, torch.Generator(self.device).manual_seed(0), 0.0).backward()  # compile before the clock runs
            flow.zero_grad(set_to_none=True)
        average, progress = fit(
            flow, loss_of, self.recipe.schedule(name), self.work / "checkpoints" / f"{name}.safetensors",
            seed=self.seed, label=name, on_save=lambda ema, _: measure(ema), draws_on=self.device,
        )  # fmt: skip
        progress.curve = _thinned(progress.curve)
        self._keep(name, average, progress)
        return self._prepared(average)

    def _keep(self, name: str, flow: TextConditionedFlow, progress: Progress) -> None:
        self._note(**{name: asdict(progress) | {"scenes": self.pool.count}})
        weights = {key: value.detach().half().cpu().contiguous() for key, value in flow.state_dict().items()}
        path = self.work / f"{name}.safetensors"
        save_file(weights, path.with_suffix(".partial"))
        os.replace(path.with_suffix(".partial"), path)

    def _note(self, **figures: object) -> None:
        """Add to the report, which outlives the run in `work`."""
        self.report |= figures
        write_atomic(self.work / "training.json", json.dumps(self.report, indent=1).encode())

    def _finished(self, name: str, flow: TextConditionedFlow) -> TextConditionedFlow | None:
        """`flow` with the weights of a stage that finished earlier, None if it did not."""
        path = self.work / f"{name}.safetensors"
        if not path.is_file():
            return None
        stored = {key: value.float() for key, value in load_file(path).items()}
        try:
            flow.load_state_dict(stored)
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds a network of other sizes than this recipe's; delete it or choose another work folder"
            ) from error
        return self._prepared(flow)

    def _prepared(self, flow: TextConditionedFlow) -> TextConditionedFlow:
        flow = flow.eval().requires_grad_(False)
        return compile_blocks(flow) if self.compiled else flow

    def _chords(
        self, paths: Paths, weights_of: Callable[[Tensor], Tensor] | None = None
    ) -> Callable[[TextConditionedFlow, torch.Generator, float], Tensor]:
        def loss_of(model: TextConditionedFlow, generator: torch.Generator, _: float) -> Tensor:
            with self._bf16():
                return chord_loss(model, self.pool.cache, paths, self.recipe.batch, generator, weights_of)

        return loss_of

    def _guided(self, teacher: TextConditionedFlow, guidance: float) -> Callable[..., Tensor]:
        """Draws states [B, PIECES + 1, L, C] for scenes [B] from noise [B, L, C] under a condition or None."""

        def draw(index: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
            prompts = Prompts.of(self.pool.cache, index)
            with self._bf16():
                return guided_path(
                    teacher, noise, prompts, guidance, side=self.pool.cache.side, condition=condition
                )  # fmt: skip

        return draw

    def _plain(self, student: TextConditionedFlow) -> Callable[..., Tensor]:
        """As `_guided`, by four Euler steps of the student."""

        @torch.no_grad()
        def draw(index: Tensor, noise: Tensor, condition: Tensor | None) -> Tensor:
            cache, states = self.pool.cache, [noise]
            with self._bf16(), torch.compiler.set_stance("force_eager"):
                text = student.read(cache.clip_ids[index], cache.t5_ids[index])
                for step in range(PIECES):
                    seen = states[-1] if condition is None else torch.cat([states[-1], condition], -1)
                    times = torch.full((len(noise),), 1 - step / PIECES, device=noise.device)
                    states.append(states[-1] - student.velocity(seen, times, text, cache.side).float() / PIECES)
            return torch.stack(states, 1)

        return draw

    def _paths(self, name: str, draw: Callable[..., Tensor], *, conditioned: bool = False) -> Paths:
        def drawn() -> tuple[Tensor, Tensor | None, Tensor]:
            index = self.pool.draw(max(1, self.recipe.batch // 2), self.generator)
            condition = self._condition(index, self.generator) if conditioned else None
            return index, condition, draw(index, self._noise(len(index)), condition)

        paths = record_paths(drawn, most=self.recipe.paths, seconds=self.recipe.seconds(name), label=name)
        self._note(**{name: len(paths.states)})
        return paths

    def _noise(self, count: int) -> Tensor:
        shape = (count, *self.pool.cache.latents.shape[1:])
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _pictures(self, draw: Callable[..., Tensor], numbers: list[int], condition: Tensor | None) -> np.ndarray:
        """One picture of each scene, uint8 [B, H, W, 3]."""
        index, done = torch.tensor(numbers, device=self.device), []
        for rows in torch.arange(len(index), device=self.device).split(max(1, self.recipe.batch // 2)):
            seen = None if condition is None else condition[rows]
            done.append(self._decoded(draw(index[rows], self._noise(len(rows)), seen)[:, -1]))
        return np.concatenate(done)

    def _originals(self, numbers: list[int]) -> np.ndarray:
        """The scenes after one round trip through the autoencoder."""
        return self._decoded(self.pool.cache.latents[torch.tensor(numbers, device=self.device)].float())

    def _decoded(self, tokens: Tensor) -> np.ndarray:
        cells = 2 * self.pool.cache.side
        return decode_latents(self.pool.vae, unpack(tokens, cells, cells), batch=128).cpu().numpy()

    def _chosen(self, name: str, shares: dict[float, float]) -> float:
        """The guidance with the largest share, the lowest of equals."""
        guidance = max(shares, key=shares.__getitem__)
        self._note(**{f"{name}_guidance": guidance, f"{name}_guidance_shares": shares})
        print(f"{name}: shares by guidance {shares}", flush=True)
        return guidance

    def _sheet(self, name: str, rows: list[np.ndarray]) -> None:
        """Save rows of pictures, 16 a line, as a picture for the eye."""
        lines = [row[start : start + 16] for row in rows for start in range(0, len(row), 16)]
        width = max(len(line) for line in lines)
        full = [line for line in lines if len(line) == width]
        sheet = np.concatenate([np.concatenate(list(line), axis=1) for line in full])
        Image.fromarray(sheet).save(self.work / f"{name}.jpg", quality=85)


def compile_blocks(flow: TextConditionedFlow) -> TextConditionedFlow:
    """Compile each block in place: blocks of a kind share one compiled code, which keeps the start short."""
    for block in (*flow.transformer.transformer_blocks, *flow.transformer.single_transformer_blocks):
        block.compile(dynamic=False)
    return flow


def _thinned(curve: list[dict[str, float]], most: int = 40) -> list[dict[str, float]]:
    return curve[:: max(1, math.ceil(len(curve) / most))]
