"""Inversion-injection: one inversion of a source, many variants in one batch (paper, section 3.2; spec rules 1-9).

The clean twin is the same inversion replayed with the identity mapping; the variants differ from it in two gathers
only, rotary rows and value rows. Outside its region a variant *is* the twin, so by default only the region's tokens of
a variant are computed: they see the twin's tokens everywhere else (``variant_tokens: region``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from artiagent.config import SynthesisSection
from artiagent.devices import is_out_of_memory, torch_dtype
from artiagent.grid import grid_of, grow
from artiagent.records import Injection
from artiagent.synthesis import memory, solvers
from artiagent.synthesis.backbones import Backbone
from artiagent.synthesis.injection import Packing, Rotary, ValueCache, gather_rows

Batch = Sequence[tuple[Injection, ...]]  # the injections of each variant

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inversion:
    """A source on its way back: the noise it came from and the values it was made of. Valid until the next one."""

    noise: torch.Tensor  # [1, L, C] float32
    cache: ValueCache
    prompt: Any
    grid: tuple[int, int]
    times: list[float]
    rotary: Rotary  # the model's tables [text + L, D]
    text_tokens: int


@dataclass(frozen=True)
class Variants:
    """What every image token of a batch does; the twin comes first.

    Rows are variants (B = 1 + K, M = L), or one row holds the twin's L tokens and the region tokens of all variants
    (B = 1, M = L + sum R_k).
    """

    variant: torch.Tensor  # int64 [B, M], the variant a token belongs to; 0 is the twin
    own: torch.Tensor  # int64 [B, M], the grid cell it stands at
    index: torch.Tensor  # int64 [B, M], the cell whose position and value it borrows
    target: torch.Tensor  # bool [B, M]
    pe_fraction: torch.Tensor  # float64 [B, M], up to where a token takes the borrowed position
    value_fraction: torch.Tensor  # float64 [B, M], up to where it takes a cached value
    region: torch.Tensor  # bool [1 + K, L], grown targets: outside it the twin decides
    packing: Packing | None = None


@dataclass(frozen=True)
class Rendered:
    """A variant and its clean twin, uint8 [H, W, 3]; variants of a batch share the twin's array."""

    twin: np.ndarray
    image: np.ndarray
    batch: int  # variants that were rendered together


class Engine:
    """Runs one backbone under one configuration section."""

    def __init__(self, backbone: Backbone, section: SynthesisSection) -> None:
        self.backbone, self.section = backbone, section
        self.halvings = 0  # how often a batch ran out of memory
        self._limit: int | None = None  # variants per batch after that
        self._prompts: dict[str, Any] = {}
        self._last: Inversion | None = None

    def render(self, image: np.ndarray, prompt: str, batch: Batch, ahead: Sequence[str] = ()) -> list[Rendered]:
        """Every variant of a source beside its clean twin. A batch that does not fit into memory is halved.

        Args:
            image: the source, uint8 [H, W, 3].
            prompt: its caption.
            batch: the injections of each variant.
            ahead: captions to come; they are embedded together with an unknown ``prompt``.
        """
        conditioning = self._prompt(prompt, ahead)
        if self.section.shared_inversion:
            return self._rendered(self.invert(image, conditioning), batch)
        alone = ([variant] for variant in batch)
        return [pair for one in alone for pair in self._rendered(self.invert(image, conditioning), one)]

    def _rendered(self, inversion: Inversion, batch: Batch) -> list[Rendered]:
        done: list[Rendered] = []
        while rest := batch[len(done) :]:
            count = self.variants_per_batch(inversion, rest)
            try:
                twin, *images = self.inject(inversion, self.variants(rest[:count], inversion))
            except RuntimeError as error:
                if not is_out_of_memory(error) or count == 1:
                    raise
                self._limit, self.halvings = count // 2, self.halvings + 1
                _log.warning("out of memory with %d variants in a batch; going on with %d", count, self._limit)
                continue
            done += [Rendered(twin, image, count) for image in images]
        return done

    @torch.inference_mode()
    def invert(self, image: np.ndarray, prompt: Any) -> Inversion:
        """Walk ``image`` uint8 [H, W, 3] to noise, recording the values of the injection's value window.

        ``prompt`` is what ``Backbone.embed`` returned.
        """
        backbone, section = self.backbone, self.section
        grid = backbone.grid(*image.shape[:2])
        times = backbone.schedule(section.steps, grid)
        latents = backbone.encode(image[None])
        cache = self._cache(grid, latents.device)
        self._last = None  # its values are about to be overwritten
        state = backbone.state
        state.clear()

        def velocity(z: torch.Tensor, time: float, node: int) -> torch.Tensor:
            state.show(record=cache.slot(node))
            return backbone.velocity(z, time, prompt, grid)

        try:
            noise = solvers.walk(section.solver, velocity, latents, times, up=True)
        finally:
            state.clear()
        self._last = Inversion(noise, cache, prompt, grid, times, *backbone.rotary(prompt, grid))
        return self._last

    def inject(self, inversion: Inversion, variants: Variants) -> np.ndarray:
        """Walk the noise back under every mapping. Returns uint8 [1 + K, H, W, 3], the twin first."""
        return self.backbone.decode(self.inject_latents(inversion, variants), inversion.grid)

    @torch.inference_mode()
    def inject_latents(self, inversion: Inversion, variants: Variants) -> torch.Tensor:
        """The walk itself: latents [1 + K, L, C] float32 at time 0."""
        if inversion is not self._last:
            raise ValueError("this inversion's values were overwritten by a later one; inject before inverting again")
        state = self.backbone.state
        rotary, text_tokens = inversion.rotary, inversion.text_tokens
        state.own = gather_rows(rotary, variants.own, text_tokens)
        state.packing = variants.packing
        tables: dict[int, Rotary] = {0: state.own}

        def velocity(z: torch.Tensor, time: float, node: int) -> torch.Tensor:
            progress = self._progress(node)
            moved = variants.target & (variants.pe_fraction > progress)
            phase = int(moved.sum())  # windows only close, so that the number tells which are open
            if phase not in tables:
                tables[phase] = gather_rows(rotary, torch.where(moved, variants.index, variants.own), text_tokens)
            state.moved = tables[phase]
            cached = variants.value_fraction > progress
            values = inversion.cache.slot(node) if bool(cached.any()) else None
            state.show(values=values)
            state.gather, state.live = (None, None) if values is None else self._gathers(variants, moved, cached)
            return self.backbone.velocity(z, time, inversion.prompt, inversion.grid)

        guaranteed = self.section.background == "guaranteed" and variants.packing is None
        after = partial(keep_background, region=variants.region) if guaranteed else None
        z = inversion.noise[0][variants.own]
        try:
            z = solvers.walk(self.section.solver, velocity, z, inversion.times, up=False, after=after)
        finally:
            state.clear()
        return unpack(z, variants)

    def variants(self, batch: Batch, inversion: Inversion) -> Variants:
        """What the tokens of a batch do, the twin put in front. Raises ValueError for a mapping of another grid."""
        rows = self._rows(batch, inversion.grid)
        if self.section.variant_tokens == "region":
            rows = pack(rows, inversion.text_tokens)
        return on_device(rows, inversion.noise.device)

    def _rows(self, batch: Batch, grid: tuple[int, int]) -> Variants:
        """One row per variant."""
        length = grid[0] * grid[1]
        own = torch.arange(length).repeat(len(batch) + 1, 1)
        index = own.clone()
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
            region[row] = torch.from_numpy(region_cells(injections, self.section.feather).ravel())
        number = torch.arange(len(batch) + 1)[:, None].expand(-1, length)
        return Variants(number, own, index, target, pe, value, region)

    def variants_per_batch(self, inversion: Inversion, batch: Batch) -> int:
        """Variants that share a batch: the configured number, or as many as fit into the free memory."""
        configured = self.section.variants_per_batch
        if configured == "auto":
            share = 1.0
            if self.section.variant_tokens == "region":
                share = max(region_share(injections, self.section.feather) for injections in batch)
            known = (inversion.grid, inversion.text_tokens)
            configured = memory.variants_that_fit(self.backbone, *known, share, len(batch))
        return max(1, min(configured, self._limit or configured, len(batch)))

    def _prompt(self, prompt: str, ahead: Sequence[str]) -> Any:
        if prompt not in self._prompts:
            wanted = list(dict.fromkeys((prompt, *ahead)))
            self._prompts = dict(zip(wanted, self.backbone.embed(wanted), strict=True))
        return self._prompts[prompt]

    def _progress(self, node: int) -> float:
        """Share of the injection's steps already behind the step that visits ``node`` (0 at the noise end)."""
        interval = (node - 1) // 2
        return (self.section.steps - 1 - interval) / self.section.steps

    def _cache(self, grid: tuple[int, int], device: torch.device) -> ValueCache:
        """The cache of the inversion to come; the memory of the last one is taken again if the grid is the same."""
        if self._last is not None and self._last.grid == grid:
            return self._last.cache
        self._last = None  # free the other one first
        section = self.section
        where = device if section.cache_device == "same" else torch.device(section.cache_device)
        blocks, heads, head_dim = self.backbone.value_shape()
        window = value_window(section)
        return ValueCache(window, blocks, grid[0] * grid[1], heads, head_dim, torch_dtype(section.cache_dtype), where)

    def _gathers(
        self, variants: Variants, moved: torch.Tensor, cached: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Value rows, and where values run live; ``value_after`` says what targets take once their position window has
        closed, ``cached`` bool [B, M] whose value window is open."""
        closed, live = variants.target & ~moved, ~cached
        gather = variants.index
        if self.section.value_after != "keep":
            gather = torch.where(closed, variants.own, gather)
        if self.section.value_after == "live":
            live = live | closed
        return gather, live[:, :, None, None] if live.any() else None


def value_window(section: SynthesisSection) -> list[int]:
    """Nodes of the schedule whose values an injection can take: recorded on the way up, visited on the way down."""
    recorded = set(solvers.nodes(section.solver, section.steps, up=True))
    visited = solvers.nodes(section.solver, section.steps, up=False)
    steps, largest = section.steps, section.value_fraction.largest
    return [n for n in visited if n in recorded and (steps - 1 - (n - 1) // 2) / steps < largest]


def region_cells(injections: tuple[Injection, ...], feather: int) -> np.ndarray:
    """Bool grid [h, w]: the targets of a variant, each injection's grown by ``feather`` patches."""
    grown = (grow(grid_of(i.mapping.targets, i.mapping.grid), feather) for i in injections)
    return np.logical_or.reduce(list(grown))


def region_share(injections: tuple[Injection, ...], feather: int) -> float:
    """Share of the grid that a variant's region covers."""
    return float(region_cells(injections, feather).mean())


def row_evaluations(section: SynthesisSection, batch: Batch) -> float:
    """Transformer calls times rows of image tokens for one source: inversion, twin and variants.

    The currency of cost (spec: synthesis, rule 1); region tokens count by their share of a row.
    """
    shares = [region_share(i, section.feather) if section.variant_tokens == "region" else 1.0 for i in batch]
    beside = 2 if section.shared_inversion else 2 * len(batch)
    return solvers.calls(section.solver, section.steps) * (beside + sum(shares))


def keep_background(z: torch.Tensor, region: torch.Tensor) -> torch.Tensor:
    """Give every row the twin's latents outside its region. ``z`` [B, L, C], ``region`` bool [B, L]."""
    return torch.where(region[:, :, None], z, z[:1])


def pack(rows: Variants, text_tokens: int) -> Variants:
    """Put the region tokens of all variants behind the twin's tokens, in one row.

    Args:
        rows: one row per variant, on the CPU.
        text_tokens: tokens in front of the image tokens.
    """
    length = rows.own.shape[1]
    cells = [row.nonzero()[:, 0] for row in rows.region[1:]]

    def packed(full: torch.Tensor) -> torch.Tensor:
        return torch.cat([full[0], *(row[c] for row, c in zip(full[1:], cells, strict=True))])[None]

    plain, widest = text_tokens + length, max(map(len, cells))
    starts = plain + np.cumsum([0, *map(len, cells)])
    queries, keys, scatter = [], [], []
    for k, (c, start) in enumerate(zip(cells, starts[:-1].tolist(), strict=True)):
        queries.append(start + torch.arange(widest).clamp(max=len(c) - 1))
        keys.append(torch.arange(plain).index_copy(0, text_tokens + c, start + torch.arange(len(c))))
        scatter.append(k * widest + torch.arange(len(c)))
    packing = Packing(torch.stack(queries), torch.stack(keys), torch.cat(scatter))
    tokens = (rows.variant, rows.own, rows.index, rows.target, rows.pe_fraction, rows.value_fraction)
    return Variants(*map(packed, tokens), rows.region, packing)


def unpack(z: torch.Tensor, variants: Variants) -> torch.Tensor:
    """Latents [1 + K, L, C] of whole pictures from ``z`` [B, M, C]; what was not computed is the twin's."""
    if variants.packing is None:
        return z
    count, length = variants.region.shape
    full = z[:, :length].repeat(count, 1, 1)
    full[variants.variant[0], variants.own[0]] = z[0]
    return full


def on_device(variants: Variants, device: torch.device) -> Variants:
    """The same on ``device``."""
    fields = {name: value.to(device) for name, value in vars(variants).items() if isinstance(value, torch.Tensor)}
    if (p := variants.packing) is not None:
        fields["packing"] = Packing(p.queries.to(device), p.keys.to(device), p.scatter.to(device))
    return Variants(**fields)
