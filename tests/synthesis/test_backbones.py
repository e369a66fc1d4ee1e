"""The adapters against the library: FLUX and Qwen-Image as tiny random models of the real classes."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo
import torch.fx.experimental._config
from diffusers import QwenImagePipeline
from safetensors.torch import load_file, save_file

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import SynthesisSection
from artiagent.nano.vl_model import build_model, build_tokenizer
from artiagent.records import CheckpointRef
from artiagent.synthesis.backbones import check_folder, load_backbone, patch_size
from artiagent.synthesis.backbones.architectures import ARCHITECTURES, build
from artiagent.synthesis.backbones.base import PipelineBackbone
from artiagent.synthesis.engine import Batch, Engine, Rendered
from artiagent.synthesis.rehearsal import rectangles
from tests.synthesis.conftest import CAPTION

GRID = (8, 8)
NAMES = ("tiny-flux", "tiny-qwen-image")


def random_backbone(name: str, **settings: object) -> PipelineBackbone:
    """With weights large enough that no injection goes unseen."""
    torch.set_num_threads(1)
    backbone = build(name, SynthesisSection(device="cpu", value_blocks=0.5, **settings))
    generator = torch.manual_seed(0)
    for model in (backbone.pipe.transformer, backbone.pipe.vae):
        for parameter in model.parameters():
            parameter.normal_(std=0.15, generator=generator)
    prompts = {text: backbone.random_prompt(5 + k) for k, text in enumerate((CAPTION, "a cat", "a much longer one"))}
    backbone.embed = lambda texts: [prompts[text] for text in texts]
    return backbone


def picture(backbone: PipelineBackbone, seed: int = 0) -> np.ndarray:
    sides = [n * backbone.patch for n in GRID]
    return np.random.default_rng(seed).integers(0, 256, (*sides, 3), dtype=np.uint8)


def latents(backbone: PipelineBackbone, batch: Batch, **settings: object) -> torch.Tensor:
    """Final latents [1 + K, L, C]."""
    engine = Engine(backbone, SynthesisSection(steps=3, device="cpu", **settings))
    inversion = engine.invert(picture(backbone), backbone.embed([CAPTION])[0])
    return engine.inject_latents(inversion, engine.variants(batch, inversion))


def deviation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.fixture(params=NAMES)
def backbone(request: pytest.FixtureRequest) -> PipelineBackbone:
    return random_backbone(request.param)


def test_an_unpatched_call_is_the_librarys(backbone: PipelineBackbone) -> None:
    prompt = backbone.embed([CAPTION])[0]
    z = torch.randn(2, 64, 16)
    ours = backbone.velocity(z, 0.4, prompt, GRID)
    with backbone.unpatched():
        theirs = backbone.velocity(z, 0.4, prompt, GRID)
        assert {type(p).__module__.split(".")[0] for p in backbone.pipe.transformer.attn_processors.values()} == {
            "diffusers"
        }
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert deviation(backbone.velocity(z, 0.8, prompt, GRID), theirs) > 1e-3
    assert torch.equal(backbone.velocity(z, 0.4, prompt, GRID), ours)  # and back again


@pytest.mark.parametrize("variant_tokens", ["region", "all"])
def test_identity_is_the_twin_and_a_mapping_is_not(backbone: PipelineBackbone, variant_tokens: str) -> None:
    moved = rectangles(GRID, 2, 0.2, feather=1)
    same = [(i.model_copy(update={"mapping": still(i)}),) for (i,) in moved]
    rows = latents(backbone, same, variant_tokens=variant_tokens)
    assert deviation(rows[1:], rows[:1].expand(2, -1, -1)) < 1e-5
    rows = latents(backbone, moved, variant_tokens=variant_tokens)
    for row, (injection,) in zip(rows[1:], moved, strict=True):
        targets = list(injection.mapping.targets)
        assert deviation(row[targets], rows[0, targets]) > 1e-3


def still(injection):
    return injection.mapping.model_copy(update={"references": injection.mapping.targets})


def test_rows_and_packed_regions_agree_where_everything_is_region(backbone: PipelineBackbone) -> None:
    batch = rectangles(GRID, 1, 1.0, feather=0)
    region, whole = (latents(backbone, batch, variant_tokens=tokens, feather=0) for tokens in ("region", "all"))
    assert deviation(region[0], whole[0]) < 1e-4
    # the text tokens still see the twin
    assert (region[1] - whole[1]).norm() < 0.3 * (whole[1] - whole[0]).norm()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "scheduler",
    [{}, {"shift_terminal": 0.02}, {"shift_terminal": None}, {"use_dynamic_shifting": False, "shift": 1.0}]
    + [{"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": 0.1}],
)
def test_the_schedule_is_the_schedulers(
    name: str, scheduler: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = ARCHITECTURES[name]
    changed = replace(architecture, scheduler=architecture.scheduler | scheduler)
    monkeypatch.setitem(ARCHITECTURES, "changed", changed)
    backbone = build("changed", SynthesisSection(device="cpu"))
    ours = backbone.pipe.scheduler
    for steps, tokens in ((4, 64), (10, 4096)):
        config = ours.config
        slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
        mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
        ours.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu if config.use_dynamic_shifting else None)
        times = backbone.schedule(steps, (tokens // 8, 8))
        np.testing.assert_allclose(times[::-1], ours.sigmas.numpy(), atol=1e-6)


def test_a_pipeline_like_schnell_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No guidance, uniform times."""
    tiny, schnell = ARCHITECTURES["tiny-flux"], ARCHITECTURES["flux-schnell"]
    assert schnell.transformer["guidance_embeds"] is False
    like = replace(tiny, transformer=tiny.transformer | {"guidance_embeds": False}, scheduler=schnell.scheduler)
    monkeypatch.setitem(ARCHITECTURES, "tiny-schnell", like)
    backbone = random_backbone("tiny-schnell")
    assert backbone.schedule(4, GRID) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    pairs = Engine(backbone, SynthesisSection(steps=2)).render(
        picture(backbone), CAPTION, rectangles(GRID, 2, 0.2, feather=1)
    )
    assert [p.image.shape for p in pairs] == [(32, 32, 3)] * 2
    assert not np.array_equal(pairs[0].image, pairs[0].twin)


# Folders


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A QwenImagePipeline with a Qwen2.5-VL of 32 wide, whose last states are what the transformer takes."""
    folder = tmp_path_factory.mktemp("qwen") / "random-qwen"
    tokenizer = build_tokenizer([CAPTION, "a cat", "Describe the image by detailing the color of the objects"])
    encoder = build_model(tokenizer, hidden=32, vision_hidden=16, depth=1)
    parts = random_backbone("tiny-qwen-image").pipe
    QwenImagePipeline(parts.scheduler, parts.vae, encoder, tokenizer, parts.transformer).save_pretrained(folder)
    return folder


@pytest.fixture
def broken(qwen_folder: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(qwen_folder, tmp_path / "broken"))


def load(folder: Path) -> PipelineBackbone:
    return load_backbone(CheckpointRef(name="q", uri=str(folder), sha256=""), SynthesisSection(device="cpu"))


def test_a_saved_qwen_pipeline_loads_embeds_and_renders(qwen_folder: Path) -> None:
    assert check_folder(qwen_folder) == "QwenImagePipeline"
    ref = checkpoint_ref("random-qwen", str(qwen_folder))
    backbone = load_backbone(ref, SynthesisSection(device="cpu", value_blocks=0.5))
    assert backbone.patch == patch_size(qwen_folder) == 4
    both, alone = backbone.embed([CAPTION, "a cat"]), backbone.embed(["a cat"])
    assert both[0].embeds.shape[2] == 32 and both[0].embeds.shape[1] > both[1].embeds.shape[1] > 0
    assert torch.equal(both[1].embeds, alone[0].embeds)  # no padding: equal for any company
    batch = rectangles(GRID, 2, 0.2, feather=1)
    pairs = Engine(backbone, SynthesisSection(steps=2)).render(picture(backbone), CAPTION, batch)
    assert [p.image.shape for p in pairs] == [(32, 32, 3)] * 2


def test_the_patch_is_the_vaes(random_flux: CheckpointRef) -> None:
    assert patch_size(Path(random_flux.uri)) == 8


def test_a_folder_that_is_no_pipeline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{tmp_path}: not a diffusers pipeline folder"):
        patch_size(tmp_path)


def test_a_pipeline_without_an_adapter_is_refused(broken: Path) -> None:
    (broken / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    with pytest.raises(
        ValueError, match=r"'StableDiffusion3Pipeline' has no backbone adapter; expected 'FluxPipeline'"
    ):
        check_folder(broken)


@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_component_is_named(broken: Path, empty: bool) -> None:
    shutil.rmtree(broken / "text_encoder")
    if empty:
        (broken / "text_encoder").mkdir()
    with pytest.raises(ValueError, match=r"component text_encoder missing; a QwenImagePipeline has scheduler, "):
        load(broken)


def test_a_foreign_transformer_is_refused(broken: Path) -> None:
    config = broken / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(ValueError, match=r"'FluxTransformer2DModel', but a QwenImagePipeline needs 'QwenImage"):
        check_folder(broken)


@pytest.mark.parametrize("damage", ["dropped", "renamed", "reshaped"])
def test_weights_of_another_architecture_are_refused(broken: Path, damage: str) -> None:
    path, name = broken / "transformer" / "diffusion_pytorch_model.safetensors", "transformer_blocks.1.attn.to_q.weight"
    weights = load_file(path)
    tensor = weights.pop(name)
    if damage != "dropped":
        weights[name if damage == "reshaped" else f"{name}s"] = tensor[:16].clone() if damage == "reshaped" else tensor
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{broken / 'transformer'}.*{name}"):
        load(broken)


# Placement


class Part:
    """A part of a pipeline that remembers where it has been."""

    def __init__(self, place: str) -> None:
        self.device, self.been = torch.device(place), [place]

    def to(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.been.append(self.device.type)


def accelerated(offload: str, vae: str) -> SimpleNamespace:
    """A backbone on an accelerator that no machine has."""
    pipe = SimpleNamespace(transformer=Part("meta"), vae=Part(vae), one=Part("cpu"), two=Part("cpu"))
    section = SimpleNamespace(offload=offload)
    return SimpleNamespace(pipe=pipe, device=torch.device("meta"), section=section, encoders=("one", "two"))


def present(backbone: SimpleNamespace, *names: str) -> None:
    with PipelineBackbone._present(backbone, *names):
        assert all(getattr(backbone.pipe, name).device.type == "meta" for name in names)
        raise RuntimeError("planted")


def test_text_encoders_and_transformer_are_never_there_together() -> None:
    backbone = accelerated("none", "meta")
    with pytest.raises(RuntimeError, match="planted"):
        present(backbone, "one", "two")
    assert backbone.pipe.one.been == backbone.pipe.two.been == ["cpu", "meta", "cpu"]
    assert backbone.pipe.transformer.been == ["meta", "cpu", "meta"]


def test_an_offloaded_vae_comes_and_goes_beside_the_transformer() -> None:
    backbone = accelerated("vae", "cpu")
    with pytest.raises(RuntimeError, match="planted"):
        present(backbone, "vae")
    assert backbone.pipe.vae.been == ["cpu", "meta", "cpu"] and backbone.pipe.transformer.been == ["meta"]
    backbone = accelerated("none", "meta")
    with pytest.raises(RuntimeError, match="planted"):
        present(backbone, "vae")
    assert backbone.pipe.vae.been == ["meta"]


def test_an_offloaded_transformer_is_not_moved_for_text_encoders() -> None:
    backbone = accelerated("blocks", "cpu")
    with pytest.raises(RuntimeError, match="planted"):
        present(backbone, "one", "two")
    assert backbone.pipe.transformer.been == ["meta"] and backbone.pipe.one.been == ["cpu", "meta", "cpu"]


def test_offloading_needs_an_accelerator() -> None:
    with pytest.raises(ValueError, match="offload='blocks' needs an accelerator"):
        build("tiny-flux", SynthesisSection(device="cpu", offload="blocks"))


# Compiled and quantized blocks


@pytest.fixture
def graphs() -> Iterator[dict[str, int]]:
    """Counts of compiled graphs, and a compiler as it was before."""
    config = torch.fx.experimental._config
    duck, limit = config.use_duck_shape, torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield torch._dynamo.utils.counters["stats"]
    torch._dynamo.reset()
    config.use_duck_shape, torch._dynamo.config.recompile_limit = duck, limit


@pytest.mark.parametrize(("name", "expected"), [("tiny-flux", 11), ("tiny-qwen-image", 7)])
def test_compiled_graphs_are_few_and_for_all_sources(name: str, expected: int, graphs: dict[str, int]) -> None:
    """One for every kind of block and phase, whatever the steps of the schedule, the number of blocks, the size of the
    regions and the length of the caption. One more records into the cache's first part, and FLUX's first single-stream
    block has two of its own, because its text tokens come in another layout."""
    backbone = random_backbone(name)
    engine = Engine(backbone, SynthesisSection(steps=6, device="cpu", compile="blocks", value_fraction=0.8))
    sources = [
        (picture(backbone), CAPTION, rectangles(GRID, 4, 0.2, feather=1)),
        (picture(backbone, 1), "a cat", rectangles(GRID, 3, 0.4, feather=1)),
        (picture(backbone, 2), "a much longer one", rectangles(GRID, 5, 0.1, feather=1)),
    ]
    eager = [pair for source in sources for pair in engine.render(*source)]
    backbone.compile(backend="eager")
    compiled: list[Rendered] = []
    for source in sources:
        compiled += engine.render(*source)
        assert graphs["unique_graphs"] == expected
    for a, b in zip(eager, compiled, strict=True):
        assert np.abs(a.twin.astype(int) - b.twin).max() <= 1 and np.abs(a.image.astype(int) - b.image).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_int8_weights_render_nearly_the_same(name: str) -> None:
    pytest.importorskip("torchao")
    exact, rounded = (random_backbone(name), random_backbone(name))
    rounded.section = rounded.section.model_copy(update={"quantize": "int8"})
    rounded._quantize()
    assert rounded.size().weights < 0.8 * exact.size().weights  # the VAE and the small layers stay
    z, prompt = torch.randn(1, 64, 16), exact.embed([CAPTION])[0]
    a, b = (backbone.velocity(z, 0.4, prompt, GRID) for backbone in (exact, rounded))
    assert 0 < (a - b).norm() < 0.05 * a.norm()
    batch = rectangles(GRID, 2, 0.2, feather=1)
    for pair in Engine(rounded, SynthesisSection(steps=2)).render(picture(rounded), CAPTION, batch):
        assert not np.array_equal(pair.image, pair.twin)


def test_quantization_without_torchao_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match="install the project with its extra 'quantize'"):
        build("tiny-flux", SynthesisSection(device="cpu", quantize="int8"))
