"""Inversion-injection: one inversion of a source, many variants in one batch (paper, section 3.2; spec rules 1-9).

Row 0 of every batch is the clean twin: the same inversion replayed with the identity mapping. The variants differ from
it in two gathers only, rotary rows and value rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from artiagent.config import SynthesisSection
from artiagent.devices import torch_dtype
from artiagent.grid import grid_of, grow
from artiagent.records import Injection
from artiagent.synthesis import solvers
from artiagent.synthesis.backbones import Backbone
from artiagent.synthesis.injection import Rotary, ValueCache, gather_rows


@dataclass(frozen=True)
class Inversion:
    """A source on its way back: the noise it came from and the values it was made of."""

    noise: torch.Tensor  # [1, L, C] float32
    cache: ValueCache
    prompt: Any
    grid: tuple[int, int]
    times: list[float]


@dataclass(frozen=True)
class Variants:
    """Index maps of a batch; row 0 is the twin. All tensors have one row per variant."""

    index: torch.Tensor  # int64 [B, L], the token whose position and value each token borrows
    target: torch.Tensor  # bool [B, L]
    region: torch.Tensor  # bool [B, L], grown targets: outside it row 0 decides
    pe_fraction: torch.Tensor  # float64 [B, L], up to where a token takes the borrowed position
    value_fraction: torch.Tensor  # float64 [B, L], up to where it takes a cached value


class Engine:
    """Runs one backbone under one configuration section."""

    def __init__(self, backbone: Backbone, section: SynthesisSection) -> None:
        self.backbone, self.section = backbone, section

    @torch.inference_mode()
    def invert(self, image: np.ndarray, prompt: str) -> Inversion:
        """Walk ``image`` uint8 [H, W, 3] to noise, recording the values of the injection's value window."""
        backbone, section = self.backbone, self.section
        grid = backbone.grid(*image.shape[:2])
        times = backbone.schedule(section.steps, grid)
        embedded = backbone.embed(prompt)
        latents = backbone.encode(image[None])
        cache = self._cache(grid, latents.device)
        state = backbone.state
        state.clear()
        state.recording = cache

        def velocity(z: torch.Tensor, time: float, node: int) -> torch.Tensor:
            state.node = node
            return backbone.velocity(z, time, embedded, grid)

        noise = solvers.walk(section.solver, velocity, latents, times, up=True)
        state.clear()
        return Inversion(noise, cache, embedded, grid, times)

    def inject(self, inversion: Inversion, variants: Variants) -> np.ndarray:
        """Walk the noise back under every row's mapping. Returns uint8 [B, H, W, 3], row 0 the twin."""
        return self.backbone.decode(self.inject_latents(inversion, variants), inversion.grid)

    @torch.inference_mode()
    def inject_latents(self, inversion: Inversion, variants: Variants) -> torch.Tensor:
        """The walk itself: latents [B, L, C] float32 at time 0."""
        state = self.backbone.state
        rotary, text_tokens = self.backbone.rotary(inversion.prompt, inversion.grid)
        tables: dict[int, Rotary | None] = {}

        def velocity(z: torch.Tensor, time: float, node: int) -> torch.Tensor:
            progress = self._progress(node)
            moved = variants.target & (variants.pe_fraction > progress)
            phase = int(moved.sum())  # windows only close, so that the number tells which are open
            if phase not in tables:
                tables[phase] = self._rotary(variants, moved, rotary, text_tokens) if phase else None
            state.rotary = tables[phase]
            state.node = node
            cached = variants.value_fraction > progress
            inject_values = node in inversion.cache.filled and bool(cached.any())
            state.cache = inversion.cache if inject_values else None
            state.gather, state.live = self._gathers(variants, moved, cached) if inject_values else (None, None)
            return self.backbone.velocity(z, time, inversion.prompt, inversion.grid)

        after = partial(keep_background, region=variants.region) if self.section.background == "guaranteed" else None
        z = inversion.noise.expand(len(variants.index), -1, -1).clone()
        try:
            return solvers.walk(self.section.solver, velocity, z, inversion.times, up=False, after=after)
        finally:
            state.clear()

    def variants(self, batch: list[tuple[Injection, ...]], grid: tuple[int, int], device: torch.device) -> Variants:
        """Index maps for the injections of each variant, the twin put in front."""
        length = grid[0] * grid[1]
        index = torch.arange(length).repeat(len(batch) + 1, 1)
        target = torch.zeros(len(batch) + 1, length, dtype=torch.bool)
        region = target.clone()
        # The twin, and what a row does not change, follow the longest window: of all tools, of the row's own.
        pe = torch.zeros(len(batch) + 1, length, dtype=torch.float64)
        value = torch.full_like(pe, self.section.value_fraction.largest)
        for row, injections in enumerate(batch, start=1):
            value[row] = max(getattr(self.section.value_fraction, i.tool) for i in injections)
            for injection in injections:
                m = injection.mapping
                if m.grid != grid:
                    raise ValueError(
                        f"mapping for a {m.grid} grid, but the image has {grid}; plan with the same patch size"
                    )
                targets = torch.tensor(m.targets)
                index[row, targets] = torch.tensor(m.references)
                target[row, targets] = True
                pe[row, targets] = getattr(self.section.pe_fraction, injection.tool)
                value[row, targets] = getattr(self.section.value_fraction, injection.tool)
                grown = grow(grid_of(m.targets, grid), self.section.feather)
                region[row] |= torch.from_numpy(grown.ravel())
        return Variants(*(tensor.to(device) for tensor in (index, target, region, pe, value)))

    def _progress(self, node: int) -> float:
        """Share of the injection's steps already behind the step that visits ``node`` (0 at the noise end)."""
        interval = (node - 1) // 2
        return (self.section.steps - 1 - interval) / self.section.steps

    def _cache(self, grid: tuple[int, int], device: torch.device) -> ValueCache:
        section = self.section
        recorded = set(solvers.nodes(section.solver, section.steps, up=True))
        needed = [n for n in solvers.nodes(section.solver, section.steps, up=False) if n in recorded]
        window = [n for n in needed if self._progress(n) < section.value_fraction.largest]
        where = device if section.cache_device == "same" else torch.device(section.cache_device)
        blocks, heads, head_dim = self.backbone.value_shape()
        return ValueCache(window, blocks, grid[0] * grid[1], heads, head_dim, torch_dtype(section.cache_dtype), where)

    def _rotary(self, variants: Variants, moved: torch.Tensor, rotary: Rotary, text_tokens: int) -> Rotary:
        own = torch.arange(variants.index.shape[1], device=variants.index.device)
        return gather_rows(rotary, torch.where(moved, variants.index, own), text_tokens)

    def _gathers(
        self, variants: Variants, moved: torch.Tensor, cached: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Value rows, and where values run live; ``value_after`` says what targets take once their position window has
        closed, ``cached`` bool [B, L] whose value window is open."""
        closed, live = variants.target & ~moved, ~cached
        gather = variants.index
        if self.section.value_after != "keep":
            own = torch.arange(variants.index.shape[1], device=variants.index.device)
            gather = torch.where(closed, own, gather)
        if self.section.value_after == "live":
            live = live | closed
        return gather, live[:, :, None, None] if live.any() else None


def keep_background(z: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Give every row the twin's latents outside its region. ``z`` [B, L, C], ``region`` bool [B, L]."""
    return torch.where(region[:, :, None], z, z[:1])
