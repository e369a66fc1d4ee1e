"""Few steps without guidance: a student learns the straight pieces of its guided teacher's paths.

A path runs from noise (time 1) to a picture (time 0) under classifier-free guidance. Cut at 1, 3/4, 1/2 and 1/4, the
times of a four-step schedule without shift, each piece is replaced by its chord; the student learns the chord's
velocity from the text alone. Four Euler steps then end where the teacher's two dozen evaluations do.
"""

from __future__ import annotations

import time as clock
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from artiagent.nano.flux_transformer import LatentCache, TextConditionedFlow, weighted_error

PIECES = 4
AT_START = 0.6  # of the samples lie where a four-step schedule looks, the others anywhere on a chord


@dataclass(frozen=True)
class Paths:
    """Cut paths: float16 states [N, PIECES + 1, L, C] from noise on, scene numbers [N], conditions [N, L, K]."""

    states: Tensor
    scenes: Tensor
    conditions: Tensor | None


@dataclass(frozen=True)
class Prompts:
    """Text as token ids [B, 32] twice over, with the ids [1, 32] of the empty prompt."""

    clip_ids: Tensor
    t5_ids: Tensor
    empty_clip: Tensor
    empty_t5: Tensor

    @classmethod
    def of(cls, cache: LatentCache, index: Tensor) -> Prompts:
        """The captions of the scenes `index`."""
        return cls(cache.clip_ids[index], cache.t5_ids[index], cache.empty_clip, cache.empty_t5)


@torch.no_grad()
def guided_path(
    teacher: TextConditionedFlow,
    noise: Tensor,
    prompts: Prompts,
    guidance: float,
    *,
    side: int,
    condition: Tensor | None = None,
    evaluations: int = 3,
) -> Tensor:
    """States [B, PIECES + 1, L, C] of the guided flow from `noise` [B, L, C], `evaluations` within each piece.

    Second-order Adams-Bashforth: one guided evaluation a step. Text and emptiness go through in one batch of 2B.
    """
    count, steps = len(noise), PIECES * evaluations
    clip_ids = torch.cat([prompts.clip_ids, prompts.empty_clip.expand_as(prompts.clip_ids)])
    t5_ids = torch.cat([prompts.t5_ids, prompts.empty_t5.expand_as(prompts.t5_ids)])
    text = teacher.read(clip_ids, t5_ids)
    tokens, states, before = noise.float(), [noise.float()], None
    for step in range(steps):
        seen = tokens if condition is None else torch.cat([tokens, condition.to(tokens)], -1)
        times = torch.full((2 * count,), 1 - step / steps, device=noise.device)
        told, untold = teacher.velocity(seen.repeat(2, 1, 1), times, text, side).float().chunk(2)
        now = untold + guidance * (told - untold)
        tokens = tokens - (now if before is None else 1.5 * now - 0.5 * before) / steps
        before = now
        if (step + 1) % evaluations == 0:
            states.append(tokens)
    return torch.stack(states, 1)


def record_paths(
    draw: Callable[[], tuple[Tensor, Tensor | None, Tensor]], *, most: int, seconds: float, label: str
) -> Paths:
    """Collect paths until there are `most` or `seconds` have passed; at least one batch.

    `draw` returns scene numbers [B], their conditions or None, and states as `guided_path` gives them.
    """
    began, parts, count = clock.perf_counter(), [], 0
    with tqdm(total=most, desc=label, unit="path", mininterval=5) as bar:
        while not parts or (count < most and clock.perf_counter() - began < seconds):
            scenes, conditions, states = draw()
            parts.append((scenes, None if conditions is None else conditions.half(), states.half()))
            count += len(scenes)
            bar.update(len(scenes))
            if scenes.is_cuda:
                torch.cuda.synchronize()
    scenes, conditions, states = zip(*parts, strict=True)
    return Paths(torch.cat(states), torch.cat(scenes), None if conditions[0] is None else torch.cat(conditions))


def chord_loss(
    student: TextConditionedFlow,
    cache: LatentCache,
    paths: Paths,
    batch: int,
    generator: torch.Generator,
    weights_of: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean squared error of the student's velocity against random chords, scalar.

    `weights_of` turns a condition [B, L, K] into weights [B, L, 1] of the tokens.
    """
    device = paths.states.device
    pick = torch.randint(len(paths.states), (batch,), generator=generator, device=device)
    piece = torch.randint(PIECES, (batch,), generator=generator, device=device)
    start, end = paths.states[pick, piece].float(), paths.states[pick, piece + 1].float()
    drawn = torch.rand(2, batch, generator=generator, device=device)
    along = torch.where(drawn[0] < AT_START, 0.0, drawn[1])
    tokens = torch.lerp(start, end, along[:, None, None])
    condition = None if paths.conditions is None else paths.conditions[pick].float()
    seen = tokens if condition is None else torch.cat([tokens, condition], -1)
    scenes = paths.scenes[pick]
    predicted = student(seen, 1 - (piece + along) / PIECES, cache.clip_ids[scenes], cache.t5_ids[scenes], cache.side)
    return weighted_error(
        predicted.float(),
        (start - end) * PIECES,
        None if condition is None or weights_of is None else weights_of(condition),
    )


def carried_over(student: dict[str, Tensor], before: dict[str, Tensor], after: dict[str, Tensor]) -> dict[str, Tensor]:
    """A student's weights for a teacher that learned on since: what distillation changed, added to the new teacher.

    `student` was distilled from the teacher `before`, which became `after`; all three have the same names and shapes.
    Holds while the teacher moved little, and spares new paths ("Editing models with task arithmetic", ICLR 2023).
    Raises ValueError where names differ.
    """
    if not student.keys() == before.keys() == after.keys():
        raise ValueError("the three networks have weights of different names: expected one architecture")
    return {name: after[name].float() + student[name].float() - before[name].float() for name in student}
