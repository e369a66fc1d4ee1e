"""The prediction of memory against the live tensors of the real classes, at the real proportions."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from artiagent.config import SynthesisSection
from artiagent.synthesis import memory
from artiagent.synthesis.backbones.architectures import ARCHITECTURES, build
from artiagent.synthesis.backbones.base import PipelineBackbone
from artiagent.synthesis.engine import Engine, Inversion, region_share, value_window
from artiagent.synthesis.injection import ValueCache
from artiagent.synthesis.memory import LiveBytes, Size
from artiagent.synthesis.rehearsal import rectangles

TEXT = 24
FLUX = Size(
    width=3072, head_dim=128, value_blocks=19, patch=16, weights=0, bytes=2,
    typed=13, packed=14.5, pixel=6, channels=128,
)  # fmt: skip


@pytest.fixture(params=["tiny-flux", "tiny-qwen-image"])
def proportioned(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An architecture with 24 heads, as the full ones: rotary tables must stay small beside the tokens."""
    tiny = ARCHITECTURES[request.param]
    depth = {"num_layers": 1, "num_single_layers": 2} if "flux" in request.param else {"num_layers": 2}
    wider = replace(tiny, transformer=tiny.transformer | depth | {"num_attention_heads": 24})
    monkeypatch.setitem(ARCHITECTURES, "proportioned", wider)
    yield "proportioned"


def inverted(backbone: PipelineBackbone, section: SynthesisSection, side: int) -> tuple[Engine, Inversion]:
    engine = Engine(backbone, section)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return engine, engine.invert(image, backbone.random_prompt(TEXT))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tokens", ["region", "all"])
def test_transformer_activations_are_predicted(proportioned: str, dtype: str, tokens: str) -> None:
    section = SynthesisSection(steps=2, dtype=dtype, variant_tokens=tokens, device="cpu")
    backbone = build(proportioned, section)
    engine, inversion = inverted(backbone, section, 64)
    for variants, share in ((1, 0.15), (4, 0.15), (3, 0.4)):
        batch = rectangles(inversion.grid, variants, share, feather=1)
        with LiveBytes() as live:
            engine.inject_latents(inversion, engine.variants(batch, inversion))
        largest = max(region_share(injections, 1) for injections in batch)
        predicted = memory.activation_bytes(backbone.size(), section, inversion.grid, TEXT, variants, largest)
        assert live.peak == pytest.approx(predicted, rel=0.1), (variants, share)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["flux-dev", "qwen-image"])
def test_decoder_activations_are_predicted(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real VAEs, with fewer channels, beside a transformer that takes nothing."""
    thin = {"block_out_channels": (16, 32, 64, 64), "norm_num_groups": 8} if name == "flux-dev" else {"base_dim": 16}
    small = {"num_attention_heads": 1, "attention_head_dim": 16, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 8}
    architecture = ARCHITECTURES[name]
    architecture = replace(
        architecture, vae=architecture.vae | thin, transformer=architecture.transformer | small | {"num_layers": 1}
    )
    monkeypatch.setitem(ARCHITECTURES, "thin", architecture)
    section = SynthesisSection(dtype=dtype, device="cpu")
    backbone = build("thin", section, depth=0.03)
    for rows in (1, 3):
        with LiveBytes() as live:
            backbone.decode(torch.randn(rows, 16, 64), (4, 4))
        predicted = memory.activation_bytes(backbone.size(), section, (4, 4), TEXT, rows - 1, 0.1)
        assert live.peak == pytest.approx(predicted, rel=0.1), rows


def test_large_pictures_are_decoded_one_by_one() -> None:
    section = SynthesisSection(variant_tokens="all")
    small, large = (
        [memory.activation_bytes(FLUX, section, (side, side), 0, k, 1) for k in (0, 3)] for side in (16, 17)
    )
    assert small[1] == 4 * small[0] == 4 * 6 * 256**2 * 128 * 2
    assert large[0] == 6 * 272**2 * 128 * 2 and large[1] < 4 * large[0]


def test_the_caches_size_is_the_specs() -> None:
    section = SynthesisSection(steps=25, value_fraction=0.6, cache_dtype="bfloat16")
    slots = len(value_window(section))
    assert slots == 15
    assert memory.cache_bytes(FLUX, section, slots, 4096) == 7_172_259_840  # "7.2 GB"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_caches_size_is_what_it_takes(dtype: str) -> None:
    section = SynthesisSection(steps=4, cache_dtype=dtype, device="cpu")
    backbone = build("tiny-flux", section)
    _, inversion = inverted(backbone, section, 32)
    predicted = memory.cache_bytes(backbone.size(), section, len(value_window(section)), 64)
    assert inversion.cache.nbytes == predicted == inversion.cache.values.untyped_storage().nbytes() > 0
    assert isinstance(inversion.cache, ValueCache)


def fits(monkeypatch: pytest.MonkeyPatch, free: int, reserved: int = 0, allocated: int = 0) -> int:
    """Of 8 wanted variants, on an accelerator with so many free bytes."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**12))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: allocated)
    section = SynthesisSection(variant_tokens="all")
    backbone = SimpleNamespace(device=torch.device("cuda"), size=lambda: FLUX, section=section)
    return memory.variants_that_fit(backbone, (64, 64), 512, 0.15, 8)


def test_as_many_variants_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    section = SynthesisSection(variant_tokens="all")
    needed = {k: memory.activation_bytes(FLUX, section, (64, 64), 512, k, 0.15) for k in range(1, 9)}
    for k in (3, 5, 8):
        assert fits(monkeypatch, int(needed[k] / memory.HEADROOM) + 1) == k
    assert fits(monkeypatch, int(needed[5] / memory.HEADROOM) - 10**7) == 4
    assert fits(monkeypatch, 10**6) == 1  # tried all the same: the engine reports what is missing
    assert fits(monkeypatch, 10**6, reserved=10**11, allocated=10**6) == 8  # what torch holds in reserve is free


def test_on_the_cpu_all_run_together() -> None:
    backbone = SimpleNamespace(device=torch.device("cpu"))
    assert memory.variants_that_fit(backbone, (64, 64), 512, 0.15, 64) == 64


def test_live_bytes_count_storages_once_and_forget_them() -> None:
    before = torch.ones(1000)
    with LiveBytes() as live:
        a = before + 1
        view, same = a.view(10, 100), a.add_(1)
        assert live.now == 4000
        b = torch.zeros(500)
        del a, view, same
        assert live.now == 2000
        del b
    assert (live.now, live.peak) == (0, 6000)
