"""Rectified-flow solvers on a list of times: free functions that read like the algorithm.

``velocity(z, t, node)`` is a model call; ``node`` numbers half-steps of the schedule (time k of the list is node 2k,
the midpoint after it 2k + 1), so that inversion and injection agree on where cached values belong. Times ascend from 0
(image) to 1 (noise); walking the list upward inverts, downward generates, with the same signed formulas both ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

Velocity = Callable[[torch.Tensor, float, int], torch.Tensor]
AfterStep = Callable[[torch.Tensor], torch.Tensor]

CALLS_PER_STEP = {"euler": 1, "rf_solver": 2, "fireflow": 1}


def calls(solver: str, steps: int) -> int:
    """Model calls of one walk over ``steps`` steps."""
    if solver not in CALLS_PER_STEP:
        raise ValueError(f"unknown solver {solver!r}; expected one of {', '.join(CALLS_PER_STEP)}")
    return CALLS_PER_STEP[solver] * steps + (solver == "fireflow")


def walk(
    solver: str, velocity: Velocity, z: torch.Tensor, times: list[float], up: bool, after: AfterStep | None = None
) -> torch.Tensor:
    """Integrate ``z`` over the whole list.

    Args:
        solver: "euler", "rf_solver" (explicit midpoint) or "fireflow" (midpoint, reusing the last one).
        velocity: the model call.
        z: state, float32; at times[0] when ``up``, else at times[-1].
        times: ascending list t_0 = 0 ... t_N = 1.
        up: True inverts (image to noise), False generates.
        after: applied to the state after every step (background guarantee).
    """
    calls(solver, 1)
    previous: torch.Tensor | None = None
    for here, there, node, middle in _intervals(times, up):
        h = there - here
        if solver == "euler":
            v = velocity(z, here, node)
        elif solver == "rf_solver":
            v = velocity(z + h / 2 * velocity(z, here, node), here + h / 2, middle)
        else:
            if previous is None:
                previous = velocity(z, here, node)
            v = previous = velocity(z + h / 2 * previous, here + h / 2, middle)
        z = z + h * v
        if after is not None:
            z = after(z)
    return z


def nodes(solver: str, steps: int, up: bool) -> Iterator[int]:
    """The nodes that ``walk`` visits, in order."""
    for k, (_, _, node, middle) in enumerate(_intervals([i / steps for i in range(steps + 1)], up)):
        if solver != "fireflow" or k == 0:
            yield node
        if solver != "euler":
            yield middle


def flux_times(steps: int, mu: float | None, shift: float = 1.0) -> list[float]:
    """FLUX's schedule, ascending: ``t = e^mu / (e^mu + 1/s - 1)`` for s = 0, 1/N, ..., 1.

    Args:
        mu: resolution-dependent shift (dev), or None for the static ``shift`` (schnell: 1, i.e. uniform times).
    """
    scale = math.exp(mu) if mu is not None else shift
    uniform = [k / steps for k in range(steps + 1)]
    return [s if s in (0, 1) else scale / (scale + 1 / s - 1) for s in uniform]


def stretch_to(times: list[float], terminal: float | None) -> list[float]:
    """Stretch ascending times towards 1 until the first after 0 is ``terminal`` (Qwen-Image); None leaves them."""
    if not terminal:
        return times
    factor = (1 - terminal) / (1 - times[1])
    return [0.0, *(1 - (1 - t) * factor for t in times[1:])]


def resolution_mu(tokens: int, base_tokens: int, max_tokens: int, base_shift: float, max_shift: float) -> float:
    """``mu`` for an image of ``tokens`` tokens, linear between the two anchor sizes."""
    return base_shift + (tokens - base_tokens) * (max_shift - base_shift) / (max_tokens - base_tokens)


def _intervals(times: list[float], up: bool) -> Iterator[tuple[float, float, int, int]]:
    """(t_here, t_there, node of here, node of the midpoint) in walking order."""
    last = len(times) - 1
    for k in range(last) if up else range(last - 1, -1, -1):
        here, there = (k, k + 1) if up else (k + 1, k)
        yield times[here], times[there], 2 * here, 2 * k + 1
