"""What a render does with its time: every call of the model's parts, by kind."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from artiagent.synthesis.backbones.base import PipelineBackbone

TRANSFORMER = ("inversion", "injection")  # kinds of its calls; the VAE's are encode and decode


@dataclass
class Calls:
    """The calls of one render, by kind."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of the first argument, latents or pixels
    flops: dict[str, int] = field(default_factory=dict)  # of one call

    def sum(self, *kinds: str) -> float:
        return sum(sum(self.seconds[kind]) for kind in kinds)

    def median(self, kind: str) -> float:
        return statistics.median(self.seconds[kind])


@contextmanager
def watched(backbone: PipelineBackbone, count_flops: bool = False) -> Iterator[Calls]:
    """Time every call of the model's parts; with ``count_flops`` the first of each of the transformer's kinds is
    counted as well (and takes more memory for it)."""
    calls = Calls()

    def watch(kind_of: Callable[[], str], part: Callable[..., Any]) -> Callable[..., Any]:
        def watched_part(first: Any, *rest: Any) -> Any:
            kind = kind_of()
            calls.shapes[kind] = tuple(first.shape)
            counts = count_flops and kind in TRANSFORMER and kind not in calls.flops
            with FlopCounterMode(display=False) if counts else nullcontext() as counter:
                seconds, result = timed(backbone.device, lambda: part(first, *rest))
            if counts:
                calls.flops[kind] = counter.get_total_flops()
            calls.seconds[kind].append(seconds)
            return result

        return watched_part

    backbone.velocity = watch(lambda: TRANSFORMER[backbone.state.own is not None], backbone.velocity)
    backbone.encode = watch(lambda: "encode", backbone.encode)
    backbone.decode = watch(lambda: "decode", backbone.decode)
    try:
        yield calls
    finally:
        del backbone.velocity, backbone.encode, backbone.decode


def timed(device: torch.device, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds until the device has done ``work``, and its result."""
    _wait(device)
    started = time.perf_counter()
    result = work()
    _wait(device)
    return time.perf_counter() - started, result


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP per second of the best of several large square matrix products: what the machine gives at most."""
    best = 0.0
    for side in (2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048):
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        for _ in range(10 if device.type == "cuda" else 3):
            best = max(best, 2 * side**3 / timed(device, lambda a=a, b=b: a @ b)[0])
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
