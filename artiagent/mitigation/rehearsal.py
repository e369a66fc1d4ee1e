"""A rehearsal of search and correction: what a picture and a round cost on this machine, before weights are there.

Builds the named architectures at their real sizes with random weights, made in their type on the device, and measures
them through the real `Generator`, `FluxInpainter` and `Verifier`. Every part stands alone: one that fails or comes too
late says so, and the others are measured all the same. Does not know what a good picture is: what such models paint
means nothing.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Config,
    T5EncoderModel,
)

from artiagent.config import CorrectionSection
from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.learning.architectures import ARCHITECTURES as VLMS
from artiagent.learning.architectures import random_model
from artiagent.learning.reward.heads import Head
from artiagent.learning.reward.towers import Tower
from artiagent.learning.reward.verifier import Member, Verifier, to_pixels
from artiagent.mitigation.generators import Generator
from artiagent.mitigation.inpainters import FluxInpainter
from artiagent.nano.flux_text import build_clip_tokenizer, build_t5_tokenizer, caption_words
from artiagent.synthesis.backbones.architectures import ARCHITECTURES, blocks, empty, materialise
from artiagent.synthesis.stopwatch import timed

CAPTION = "a photograph of two people and a dog on a meadow in front of a house"
QUESTION_TOKENS, BOX_TOKENS, CAPTION_TOKENS = 80, 64, 48  # of a question, an answer with two boxes, a caption
GIB = 2**30
TINY = "tiny-flux"  # its text encoders are small as well


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        sampler: architecture that draws, of ``synthesis.backbones.architectures``.
        inpainter: architecture whose size the inpainter has; its transformer takes image and mask beside the latents.
        vlm: architecture that is asked, of ``learning.architectures``.
        size: side of the pictures in px.
        steps: transformer calls per picture.
        batches: pictures per transformer call, one measurement each.
        fill_steps: transformer calls per repainting.
        candidates: repaintings of a round.
        vlm_pixels: of the image that the VLM is shown, at most.
        depth: share of the blocks and layers that is built; figures are of what was built.
        device: where.
        dtype: of the weights.
        limit: seconds after which no further measurement begins.
    """

    sampler: str = "flux-schnell"
    inpainter: str = "flux-dev"
    vlm: str = "qwen2.5-vl-7b"
    size: int = 1024
    steps: int = 4
    batches: tuple[int, ...] = (1, 4, 8)
    fill_steps: int = 28
    candidates: int = 4
    vlm_pixels: int = 756 * 756
    depth: float = 1.0
    device: str = "auto"
    dtype: str = "bfloat16"
    limit: float = 100.0

    def __post_init__(self) -> None:
        for name, known in (("sampler", ARCHITECTURES), ("inpainter", ARCHITECTURES), ("vlm", VLMS)):
            if (asked := getattr(self, name)) not in known:
                raise ValueError(f"{name} {asked!r}: expected one of {', '.join(known)}")
        if not 0 < self.depth <= 1:
            raise ValueError(f"depth {self.depth}: expected more than 0 and at most 1")


class _Resident(Generator):
    """All parts stay on the device: moving text encoders in turns is not what is measured here."""

    def _have(self, *names: str) -> None:
        pass


class _Clock:
    """When the rehearsal has to come to its end."""

    def __init__(self, seconds: float) -> None:
        self.started, self.seconds = time.monotonic(), seconds

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def over(self) -> bool:
        return self.elapsed > self.seconds


def rehearse(
    asked: Rehearsal, told: Callable[[str, dict[str, Any]], None] = lambda line, report: None
) -> dict[str, Any]:
    """Build and measure part by part; ``told`` gets a line about each as it ends, and the report as far as it is."""
    use_threads(torch.get_num_threads())
    torch.manual_seed(0)
    device, clock = torch_device(asked.device), _Clock(asked.limit)
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine(device),
        "rehearsal": asdict(asked), "parts": {},
    }  # fmt: skip
    parts = report["parts"]
    for name, part in (("verifier", _verifier), ("sampler", _sampler), ("vlm", _vlm), ("inpainter", _inpainter)):
        parts[name] = _part(part, asked, device, clock)
        report |= {"round_seconds": _round(parts), "seconds": clock.elapsed}
        told(f"{clock.elapsed:6.1f} s  {name}: {parts[name].get('error', 'done')}", report)
    return report


def _part(
    measure: Callable[[Rehearsal, torch.device, _Clock], dict[str, Any]],
    asked: Rehearsal,
    device: torch.device,
    clock: _Clock,
) -> dict[str, Any]:
    """One part with its peak of memory, or why there is none. A failure of any kind must not take the others along."""
    if clock.over:
        return {"error": f"not begun: {asked.limit:.0f} s were over"}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.inference_mode():
            found = measure(asked, device, clock)
    except Exception as error:  # noqa: BLE001
        found = {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    if device.type == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated(device) / GIB
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return found


def _sampler(asked: Rehearsal, device: torch.device, clock: _Clock) -> dict[str, Any]:
    """Seconds of a prompt's embedding, of a transformer call and of a decoded picture, by batch."""
    pipe = FluxPipeline(**_components(asked.sampler, asked, device))
    generator = _Resident(
        pipe, name=asked.sampler, size=asked.size, steps=asked.steps, device=asked.device, batch=max(asked.batches),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    generator.embed([f"{CAPTION} warm"])
    embedding = timed(device, lambda: generator.embed([CAPTION]))[0]
    found: dict[str, Any] = {"parameters": _count(pipe.transformer), "embedding_seconds": embedding, "batches": {}}
    for batch in asked.batches:
        if clock.over:
            found["batches"][str(batch)] = {"error": "time was over"}
            continue
        found["batches"][str(batch)] = _batch(generator, batch, device)
    return found


def _batch(generator: Generator, batch: int, device: torch.device) -> dict[str, float]:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    prompts, noise = [CAPTION] * batch, generator.noise(range(batch))
    generator.step(prompts, noise, 0)  # warm: kernels are chosen on first use
    step = timed(device, lambda: generator.step(prompts, noise, 0))[0]
    generator.decode(noise[:1])
    decoding = timed(device, lambda: generator.decode(noise))[0]
    seconds = timed(device, lambda: generator.generate(prompts, noise))[0]
    found = {
        "call_seconds": step / generator.calls_per_step, "decode_seconds_per_image": decoding / batch,
        "seconds_per_image": seconds / batch, "images_per_second": batch / seconds,
    }  # fmt: skip
    return found | ({"peak_gib": torch.cuda.max_memory_allocated(device) / GIB} if device.type == "cuda" else {})


def _verifier(asked: Rehearsal, device: torch.device, clock: _Clock) -> dict[str, Any]:
    """CLIP ViT-B/16 with a head on its cells, in float32 as verifiers are; scaling on the CPU is part of it."""
    config = CLIPVisionConfig(patch_size=16, image_size=224, num_hidden_layers=max(1, round(12 * asked.depth)))
    model = _random(CLIPVisionModel, config, torch.float32, device)
    tower = Tower("clip", model, config.image_size, config.hidden_size, config.patch_size)
    judge = Verifier([Member(tower, Head(config.hidden_size, 128))], "tokens", "", asked.device)
    count = max(asked.batches)
    images = [np.random.default_rng(k).integers(0, 256, (asked.size, asked.size, 3), np.uint8) for k in range(count)]
    judge(images)
    scaling = timed(device, lambda: to_pixels(images, tower.side))[0] / count
    return {
        "parameters": _count(model), "batch": count, "scaling_seconds_per_image": scaling,
        "seconds_per_image": timed(device, lambda: judge(images))[0] / count,
    }  # fmt: skip


def _vlm(asked: Rehearsal, device: torch.device, clock: _Clock) -> dict[str, Any]:
    """Seconds of a verdict (one forward pass), of an answer with boxes and of a caption, each about one image."""
    config = VLMS[asked.vlm].config(asked.depth)
    model = random_model(config, torch_dtype(asked.dtype), device).eval()
    inputs, tokens = _question(asked, config)
    inputs = {
        name: value.to(device, torch_dtype(asked.dtype) if value.is_floating_point() else None)
        for name, value in inputs.items()
    }

    def answer(count: int) -> Any:
        return model.generate(
            **inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=1
        )

    model(**inputs, logits_to_keep=1)
    answer(2)
    found = {"parameters": _count(model), "image_tokens": tokens}
    found["verdict_seconds"] = timed(device, lambda: model(**inputs, logits_to_keep=1))[0]
    for name, count in (("boxes", BOX_TOKENS), ("caption", CAPTION_TOKENS)):
        if not clock.over:
            found |= {f"{name}_seconds": timed(device, lambda count=count: answer(count))[0], f"{name}_tokens": count}
    return found


def _question(asked: Rehearsal, config: Any) -> tuple[dict[str, torch.Tensor], int]:
    """One random image with a question of random words; also how many tokens the image takes."""
    image, tokens = VLMS[asked.vlm].image(config, asked.vlm_pixels)
    words = torch.randint(10, 200, (1, QUESTION_TOKENS))  # no marker of any family has so small an id
    ids = torch.cat([torch.full((1, tokens), config.image_token_id), words], dim=1)
    inputs = {**image, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if config.model_type != "internvl":
        start = torch.full((1, 1), config.vision_start_token_id)
        inputs["input_ids"] = torch.cat([start, ids], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == config.image_token_id).long()
    return inputs, tokens


def _inpainter(asked: Rehearsal, device: torch.device, clock: _Clock) -> dict[str, Any]:
    """Seconds of a repainting, alone and as the candidates of a round."""
    components = _components(asked.inpainter, asked, device, fill=True)
    image = np.random.default_rng(0).integers(0, 256, (1, asked.size, asked.size, 3), np.uint8)
    mask = np.zeros((1, asked.size, asked.size), bool)
    mask[:, asked.size // 4 : asked.size // 2, asked.size // 4 : asked.size // 2] = True

    def repaint(count: int, steps: int) -> float:
        section = CorrectionSection(steps=steps, device=asked.device, dtype=asked.dtype, batch=count)
        painter = FluxInpainter("rehearsal", "", "FluxFillPipeline", components, section)
        given = np.repeat(image, count, 0), np.repeat(mask, count, 0), [CAPTION] * count, list(range(count))
        return timed(device, lambda: painter.repaint(*given))[0]

    repaint(1, 2)  # warm
    found = {"parameters": _count(components["transformer"]), "steps": asked.fill_steps}
    few, many = repaint(1, 2), repaint(1, asked.fill_steps)
    found["seconds_of_one"] = many
    if asked.fill_steps > 2:  # what two steps cost beside the calls themselves is in both
        found["call_seconds_of_one"] = (many - few) / (asked.fill_steps - 2)
    if not clock.over:
        found |= {"candidates": asked.candidates, "seconds": repaint(asked.candidates, asked.fill_steps)}
    return found


def _components(name: str, asked: Rehearsal, device: torch.device, fill: bool = False) -> dict[str, Any]:
    """The parts of a FLUX pipeline with random weights on the device; tokenizers of a few words, padded as the real
    ones are."""
    architecture, dtype = ARCHITECTURES[name], torch_dtype(asked.dtype)
    vae = _on_device(empty(AutoencoderKL, architecture.vae), dtype, device)
    arguments = architecture.transformer | blocks(name, asked.depth)
    if fill:
        channels = 4 * architecture.vae["latent_channels"]  # of a packed token
        scale = 2 ** (len(architecture.vae["block_out_channels"]) - 1)
        arguments |= {"in_channels": 2 * channels + 4 * scale**2, "out_channels": channels}
    transformer = _on_device(empty(FluxTransformer2DModel, arguments), dtype, device)
    words = caption_words([CAPTION, "warm"])
    clip_tokenizer, t5_tokenizer = build_clip_tokenizer(words), build_t5_tokenizer(words)
    clip_tokenizer.model_max_length, t5_tokenizer.model_max_length = 77, 512
    clip, t5 = _text_configs(name, asked.depth, transformer.config, clip_tokenizer.eos_token_id)
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(**architecture.scheduler), "vae": vae, "transformer": transformer,
        "text_encoder": _random(CLIPTextModel, clip, dtype, device), "tokenizer": clip_tokenizer,
        "text_encoder_2": _random(T5EncoderModel, t5, dtype, device), "tokenizer_2": t5_tokenizer,
    }  # fmt: skip


def _text_configs(name: str, depth: float, transformer: Any, end: int) -> tuple[CLIPTextConfig, T5Config]:
    """CLIP ViT-L/14's text model and T5 v1.1 XXL's encoder; of the tiny architecture one layer of its own width."""
    pooled, states = transformer.pooled_projection_dim, transformer.joint_attention_dim
    small = name == TINY
    layers = [1 if small else max(1, round(depth * count)) for count in (12, 24)]
    clip = CLIPTextConfig(
        vocab_size=49_408, hidden_size=pooled, intermediate_size=4 * pooled, projection_dim=pooled,
        num_hidden_layers=layers[0], num_attention_heads=2 if small else 12, max_position_embeddings=77,
        eos_token_id=end,
    )  # fmt: skip
    t5 = T5Config(
        vocab_size=32_128, d_model=states, d_kv=16 if small else 64, d_ff=64 if small else 10_240,
        num_layers=layers[1], num_heads=2 if small else 64, feed_forward_proj="gated-gelu", is_encoder_decoder=False,
        use_cache=False, dropout_rate=0.0,
    )  # fmt: skip
    return clip, t5


def _random(cls: type[torch.nn.Module], config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    model = _on_device(empty(cls, {"config": config}), dtype, device)
    model.tie_weights()
    return model


def _on_device(model: torch.nn.Module, dtype: torch.dtype, device: torch.device) -> Any:
    materialise(model, dtype, device)
    return model.to(device).eval()


def _round(parts: dict[str, dict[str, Any]]) -> float | None:
    """Seconds of one round on one image with one box: verdict, boxes, caption, candidates, both judges on them."""
    try:
        vlm, painter, verifier = parts["vlm"], parts["inpainter"], parts["verifier"]
        asking = (1 + painter["candidates"]) * vlm["verdict_seconds"] + vlm["boxes_seconds"] + vlm["caption_seconds"]
        return asking + painter["seconds"] + (1 + painter["candidates"]) * verifier["seconds_per_image"]
    except KeyError:  # a part is missing
        return None


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions = {module.__name__: module.__version__ for module in (torch, diffusers, transformers)}
    return {"device": name, "type": device.type, "threads": torch.get_num_threads(), **versions}


def table(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    asked, machine = report["rehearsal"], report["machine"]
    lines = [
        f"random weights, {asked['dtype']}, {asked['size']} px, on {machine['device']}, torch {machine['torch']}, "
        f"diffusers {machine['diffusers']}, {report['seconds']:.0f} s in all"
    ]
    for name, part in report["parts"].items():
        architecture = asked.get(name, "clip-vit-b-16")
        peak = f", peak {part['peak_gib']:.1f} GiB" if "peak_gib" in part else ""
        size = f", {part['parameters'] / 1e9:.2f}e9 parameters" if "parameters" in part else ""
        lines.append(f"\n{name} {architecture}{size}{peak}")
        lines += _rows(part)
    if (seconds := report["round_seconds"]) is not None:
        lines.append(f"\none round of correction: {seconds:.1f} s an image with one box")
    return "\n".join(lines)


def _rows(part: dict[str, Any]) -> Sequence[str]:
    rows = []
    for key, value in part.items():
        if key == "batches":
            rows += [f"  batch {batch:<3} {_told(found)}" for batch, found in value.items()]
        elif key not in ("parameters", "peak_gib"):
            rows.append(f"  {key:<28}{value:.4g}" if isinstance(value, float) else f"  {key:<28}{value}")
    return rows


def _told(found: dict[str, Any]) -> str:
    if "error" in found:
        return found["error"]
    peak = f", peak {found['peak_gib']:.1f} GiB" if "peak_gib" in found else ""
    return (
        f"{found['images_per_second']:.3g} images/s, {1e3 * found['call_seconds']:.1f} ms a call, decode "
        f"{1e3 * found['decode_seconds_per_image']:.1f} ms an image{peak}"
    )
