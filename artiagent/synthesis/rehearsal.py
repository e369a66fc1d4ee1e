"""A rehearsal of synthesis: what a source costs on this machine, in seconds, memory and rows, before weights are there.

Renders one random image with variants whose regions are rectangles, through the same engine as the real thing. Knows
how to measure. Does not know what a good picture is: the weights of a named architecture are random.
"""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
import torch._dynamo.utils
import transformers

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import SynthesisSection
from artiagent.devices import torch_dtype, use_threads
from artiagent.images import encode
from artiagent.records import Injection, PatchMapping
from artiagent.run_config import apply_override, parse_config
from artiagent.synthesis import memory
from artiagent.synthesis.backbones import load_backbone
from artiagent.synthesis.backbones.architectures import ARCHITECTURES, blocks, build
from artiagent.synthesis.backbones.base import PipelineBackbone
from artiagent.synthesis.compose import blend, measure, region_mask
from artiagent.synthesis.engine import Batch, Engine, Rendered, region_share, row_evaluations, value_window
from artiagent.synthesis.stopwatch import TRANSFORMER, Calls, matmul_rate, timed, watched

CAPTION = "a photograph of two people and a dog on a meadow in front of a house"
TOOLS = ("add", "remove", "distort", "fuse")
LIBRARY_CALLS = 3  # timed calls of the unpatched transformer


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        backbone: name of an architecture, built with random weights, or a pipeline folder or hub id.
        size: side of the square image in pixels.
        variants: artifact images of the source.
        region: share of the grid that each variant's region covers, about.
        depth: share of the blocks that is built; the projection extrapolates.
        pairs: accepted pairs that the projection is for.
        acceptance: share of the rendered pairs that curation accepts.
    """

    backbone: str
    size: int = 1024
    variants: int = 4
    region: float = 0.15
    depth: float = 1.0
    pairs: int = 100_000
    acceptance: float = 0.85

    def __post_init__(self) -> None:
        for name in ("region", "depth", "acceptance"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected more than 0 and at most 1")
        for name in ("size", "variants", "pairs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.backbone not in ARCHITECTURES and self.depth != 1:
            raise ValueError("depth: a pipeline folder has the blocks it has; a part can be built of named ones only")


class Take(NamedTuple):
    """One source from pixels to encoded pairs."""

    calls: Calls
    seconds: float
    batch: int  # variants that were rendered together


def synthesis_section(preset: str, overrides: list[str], **settings: Any) -> SynthesisSection:
    """The section that is rehearsed: a preset, ``settings``, and ``synthesis.key=value`` overrides."""
    if foreign := [o for o in overrides if not o.startswith("synthesis.")]:
        raise ValueError(f"--set {foreign[0]!r}: a rehearsal has keys of synthesis only, e.g. synthesis.steps=8")
    tree = {"preset": preset, "synthesis": {"workers": 1, "cache_dtype": settings["dtype"], **settings}}
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree, "rehearsal").synthesis


def rehearse(asked: Rehearsal, section: SynthesisSection) -> dict[str, Any]:
    """Build, render, measure. Raises ValueError when the weights do not fit, or as ``load_backbone``."""
    use_threads(section.threads)
    backbone, prompt = _backbone(asked, section)
    grid = backbone.grid(asked.size, asked.size)
    batch = rectangles(grid, asked.variants, asked.region, section.feather)
    image = np.random.default_rng(0).integers(0, 256, (asked.size, asked.size, 3), dtype=np.uint8)
    backbone.embed = lambda prompts: [prompt] * len(prompts)

    def render(count_flops: bool = False) -> Take:
        shorter = section.model_copy(update={"steps": 2} if count_flops else {})
        return _render(Engine(backbone, shorter), image, batch, count_flops)

    survey = render(count_flops=True).calls  # before compiling: no dispatch mode sees into compiled blocks
    live = _live_bytes(render) if backbone.device.type == "cpu" else None
    compiled = _compile(backbone, render) if section.compile == "blocks" else None
    if live is None:
        torch.cuda.reset_peak_memory_stats(backbone.device)
    take = render()
    peak = torch.cuda.max_memory_allocated(backbone.device) if live is None else backbone.size().weights + live
    library = {kind: _library_seconds(backbone, survey.shapes[kind], prompt, grid) for kind in TRANSFORMER}
    rate = matmul_rate(backbone.device, torch_dtype(section.dtype))
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(backbone.device),
        "rehearsal": asdict(asked),
        "synthesis": section.model_dump(mode="json"),
        "model": _model(asked, backbone),
        "seconds": _seconds(take, library, asked.variants),
        "memory": _memory(backbone, section, batch, prompt, take.batch, peak),
        "compute": _compute(take.calls, survey.flops, rate),
        "compiled": compiled,
        "rows": _rows(section, batch),
        "projection": _projection(asked, backbone, take),
    }


def rectangles(grid: tuple[int, int], variants: int, share: float, feather: int) -> Batch:
    """A rectangle for each variant, spread along the diagonal; its content comes from half a picture away.

    ``share`` of the grid is what it covers grown by ``feather`` patches, as far as whole patches allow.
    """
    side = [min(n, max(1, round(n * math.sqrt(share)) - 2 * feather)) for n in grid]
    room = [max(0, n - s - 2 * feather) for n, s in zip(grid, side, strict=True)]
    sides, batch = list(zip(grid, side, room, strict=True)), []
    for k in range(variants):
        top, left = (min(feather, n - s) + r * k // max(1, variants - 1) for n, s, r in sides)
        cells = [(top + r, left + c) for r in range(side[0]) for c in range(side[1])]
        targets = tuple(r * grid[1] + c for r, c in cells)
        half = [n // 2 for n in grid]
        references = tuple((r + half[0]) % grid[0] * grid[1] + (c + half[1]) % grid[1] for r, c in cells)
        mapping = PatchMapping(grid=grid, targets=targets, references=references)
        tool = TOOLS[k % len(TOOLS)]
        batch.append((Injection(tool=tool, entity="rectangle", entity_id=str(k), seed=k, mapping=mapping),))
    return batch


def _backbone(asked: Rehearsal, section: SynthesisSection) -> tuple[PipelineBackbone, Any]:
    """The backbone, not compiled yet, and a prompt for it."""
    if architecture := ARCHITECTURES.get(asked.backbone):
        backbone = build(asked.backbone, section, asked.depth)
        return backbone, backbone.random_prompt(architecture.text_tokens)
    try:
        ref = checkpoint_ref("rehearsal", asked.backbone)
    except ValueError as error:
        raise ValueError(f"--backbone: expected {', '.join(ARCHITECTURES)}, or a folder or hub id; {error}") from error
    backbone = load_backbone(ref, section.model_copy(update={"compile": "none"}))
    return backbone, backbone.embed([CAPTION])[0]


def _render(engine: Engine, image: np.ndarray, batch: Batch, count_flops: bool) -> Take:
    with watched(engine.backbone, count_flops) as calls:
        seconds, rendered = timed(engine.backbone.device, lambda: _pairs(engine, image, batch))
    return Take(calls, seconds, rendered[0].batch)


def _pairs(engine: Engine, image: np.ndarray, batch: Batch) -> list[Rendered]:
    """What ``artiagent.synthesis.render`` does to a source, but for the records."""
    section, patch = engine.section, engine.backbone.patch
    rendered = engine.render(image, CAPTION, batch)
    encode(rendered[0].twin, section.image_format)
    for (injection,), pair in zip(batch, rendered, strict=True):
        region = region_mask(injection, patch, section.feather)
        picture = blend(pair.twin, pair.image, region, ramp=section.feather * patch // 2)
        measure(pair.twin, picture, injection, patch, section.feather)
        encode(picture, section.image_format)
    return rendered


def _live_bytes(render: Callable[[], Take]) -> int:
    with memory.LiveBytes() as live:
        render()
    return live.peak


def _compile(backbone: PipelineBackbone, render: Callable[[], Take]) -> dict[str, Any]:
    """Compile, and render until nothing is left to be compiled."""
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    backbone.compile()
    seconds = render().seconds
    return {"graphs": graphs["unique_graphs"] - before, "first_source_seconds": seconds}


def _library_seconds(backbone: PipelineBackbone, shape: tuple[int, ...], prompt: Any, grid: tuple[int, int]) -> float:
    """Seconds of the library's own transformer on as many rows and tokens: a packed row is taken for one picture."""
    latents = torch.randn(shape, device=backbone.device)
    if shape[1] != grid[0] * grid[1]:
        height = next(h for h in range(math.isqrt(shape[1]), 0, -1) if shape[1] % h == 0)
        grid = (height, shape[1] // height)
    with backbone.unpatched():
        seconds = [
            timed(backbone.device, lambda: backbone.velocity(latents, 0.5, prompt, grid))[0]
            for _ in range(1 + LIBRARY_CALLS)
        ]
    return statistics.median(seconds[1:])


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    return {"device": name, "type": device.type, "threads": torch.get_num_threads(), **versions}


def _model(asked: Rehearsal, backbone: PipelineBackbone) -> dict[str, Any]:
    return {
        "pipeline": type(backbone.pipe).__name__,
        "weights": "random" if asked.backbone in ARCHITECTURES else "its own",
        "parameters": sum(p.numel() for p in backbone.pipe.transformer.parameters()),
        "blocks": {name: len(blocks) for name, blocks in backbone.block_lists().items()},
        "weight_bytes": backbone.size().weights,
    }


def _seconds(take: Take, library: dict[str, float], variants: int) -> dict[str, float]:
    """Seconds; ``share_outside`` is the part of the wall time that is not the transformer's."""
    calls, transformer = take.calls, take.calls.sum(*TRANSFORMER)
    return {
        "source": take.seconds,
        "pair": take.seconds / variants,
        **{f"{kind}_call": calls.median(kind) for kind in TRANSFORMER},
        **{f"{kind}_call_library": seconds for kind, seconds in library.items()},
        **{f"{kind}_overhead": calls.median(kind) / seconds for kind, seconds in library.items()},
        "transformer": transformer,
        "encode": calls.sum("encode"),
        "decode": calls.sum("decode"),
        "composition": take.seconds - transformer - calls.sum("encode", "decode"),
        "share_outside": 1 - transformer / take.seconds,
    }


def _memory(
    backbone: PipelineBackbone, section: SynthesisSection, batch: Batch, prompt: Any, together: int, peak: int
) -> dict[str, Any]:
    """Bytes on the device: predicted, as ``artiagent.synthesis.memory`` says, and measured."""
    grid, size = batch[0][0].mapping.grid, backbone.size()
    on_device = section.cache_device == "same" or torch.device(section.cache_device).type == backbone.device.type
    cache = memory.cache_bytes(size, section, len(value_window(section)), grid[0] * grid[1]) if on_device else 0
    share = max(region_share(injections, section.feather) for injections in batch)
    text_tokens = backbone.rotary(prompt, grid)[1]
    activations = memory.activation_bytes(size, section, grid, text_tokens, together, share)
    predicted = size.weights + cache + activations
    return {
        "weights": size.weights, "cache": cache, "activations": activations, "variants_together": together,
        "predicted": predicted, "measured": peak, "ratio": peak / predicted,
    }  # fmt: skip


def _compute(calls: Calls, flops: dict[str, int], rate: float) -> dict[str, Any]:
    """FLOPs of a call and the share of the matrix-product rate at which it was done."""
    return {
        "matmul_flops_per_second": rate,
        **{f"{kind}_call_flops": flops[kind] for kind in TRANSFORMER},
        **{f"{kind}_share_of_rate": flops[kind] / calls.median(kind) / rate for kind in TRANSFORMER},
        **{f"{kind}_calls": len(calls.seconds[kind]) for kind in TRANSFORMER},
    }


def _rows(section: SynthesisSection, batch: Batch) -> dict[str, float]:
    shares = [region_share(injections, section.feather) for injections in batch]
    return {
        "region_share": statistics.mean(shares),
        "evaluations_per_source": row_evaluations(section, batch),
        "evaluations_per_pair": row_evaluations(section, batch) / len(batch),
    }


def _projection(asked: Rehearsal, backbone: PipelineBackbone, take: Take) -> dict[str, Any]:
    """Hours of one such device for the wanted number of accepted pairs; missing blocks cost what those that are there
    do."""
    transformer, factor = take.calls.sum(*TRANSFORMER), _missing_blocks(asked, backbone)
    pair = (transformer * factor + take.seconds - transformer) / asked.variants
    return {
        "pairs": asked.pairs, "acceptance": asked.acceptance, "seconds_per_pair": pair,
        "device_hours": pair * asked.pairs / asked.acceptance / 3600, "extrapolated_by": factor,
    }  # fmt: skip


def _missing_blocks(asked: Rehearsal, backbone: PipelineBackbone) -> float:
    """Weights of all blocks over those of the blocks that were built."""
    if asked.backbone not in ARCHITECTURES:
        return 1.0
    lists = backbone.block_lists().values()
    each = [sum(p.numel() for p in built[0].parameters()) for built in lists]
    full = sum(n * count for n, count in zip(each, blocks(asked.backbone, 1.0).values(), strict=True))
    return full / sum(n * len(built) for n, built in zip(each, lists, strict=True))


def table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    asked, seconds, compute, bytes_ = (report[key] for key in ("rehearsal", "seconds", "compute", "memory"))
    machine, model, rows, ahead = (report[key] for key in ("machine", "model", "rows", "projection"))
    built = " + ".join(str(count) for count in model["blocks"].values())
    lines = [
        f"{asked['backbone']} ({model['weights']} weights, {built} blocks) at {asked['size']} px, "
        f"{report['synthesis']['dtype']}, on {machine['device']}, torch {machine['torch']}",
        "",
        f"{'transformer call':<22}{'seconds':>10}{'library':>10}{'ratio':>8}{'TFLOP':>10}{'of matmul rate':>16}",
    ]
    for kind in TRANSFORMER:
        ours, library, ratio = (seconds[f"{kind}_{key}"] for key in ("call", "call_library", "overhead"))
        lines.append(
            f"{kind:<22}{ours:>10.4f}{library:>10.4f}{ratio:>8.2f}{compute[f'{kind}_call_flops'] / 1e12:>10.3f}"
            f"{compute[f'{kind}_share_of_rate']:>15.0%}"
        )
    parts = ", ".join(f"{name} {seconds[name]:.2f} s" for name in ("encode", "decode", "composition"))
    lines += [
        "",
        f"{'matrix products':<22}{compute['matmul_flops_per_second'] / 1e12:.2f} TFLOP/s at best",
        f"{'source':<22}{seconds['source']:.2f} s, {asked['variants']} pairs",
        f"{'pair':<22}{seconds['pair']:.2f} s, {rows['evaluations_per_pair']:.2f} row evaluations",
        f"{'outside transformer':<22}{seconds['share_outside']:.1%} ({parts})",
        f"{'peak memory':<22}{bytes_['measured'] / 2**30:.2f} GiB, {bytes_['predicted'] / 2**30:.2f} predicted "
        f"(ratio {bytes_['ratio']:.2f}), {bytes_['variants_together']} variants together",
    ]
    if compiled := report["compiled"]:
        lines.append(
            f"{'compiling':<22}{compiled['graphs']} graphs, first source {compiled['first_source_seconds']:.0f} s"
        )
    extrapolated = f", extrapolated: transformer x {ahead['extrapolated_by']:.1f} for the blocks that were not built"
    lines.append(
        f"{'projection':<22}{ahead['device_hours']:,.1f} device-hours for {ahead['pairs']:,} pairs at "
        f"{ahead['acceptance']:.0%} accepted{extrapolated if ahead['extrapolated_by'] != 1 else ''}"
    )
    return "\n".join(lines)
