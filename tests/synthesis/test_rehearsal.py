"""The rehearsal through the command line, on tiny architectures; the full ones are counted, not built."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from artiagent import cli
from artiagent.config import SynthesisSection
from artiagent.records import CheckpointRef
from artiagent.synthesis.backbones import adapter, architectures
from artiagent.synthesis.backbones.architectures import ARCHITECTURES, blocks, build, empty
from artiagent.synthesis.engine import region_share, row_evaluations
from artiagent.synthesis.rehearsal import rectangles, synthesis_section

SHORT = ("--size", "32", "--device", "cpu", "--set", "synthesis.steps=4")


def rehearsed(tmp_path: Path, *arguments: str) -> dict:
    out = tmp_path / "report.json"
    assert cli.main(["rehearse", "synthesis", *SHORT, *arguments, "--out", str(out)]) == 0
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", ["tiny-flux", "tiny-qwen-image"])
def test_a_rehearsal_measures_and_projects(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = rehearsed(tmp_path, "--backbone", name, "--pairs", "3600", "--acceptance", "0.5", "--variants", "2")
    assert set(report) == {
        "date", "machine", "rehearsal", "synthesis", "model", "seconds", "memory", "compute", "compiled", "rows",
        "projection",
    }  # fmt: skip
    seconds, compute, projection = report["seconds"], report["compute"], report["projection"]
    assert report["machine"]["torch"] == torch.__version__ and report["synthesis"]["cache_dtype"] == "bfloat16"
    assert compute["inversion_calls"] == compute["injection_calls"] == 5
    assert 0 < compute["inversion_call_flops"] < compute["injection_call_flops"]
    assert 0 < compute["inversion_share_of_rate"] < 1
    assert seconds["inversion_overhead"] == pytest.approx(seconds["inversion_call"] / seconds["inversion_call_library"])
    whole = sum(seconds[part] for part in ("transformer", "encode", "decode", "composition"))
    assert whole == pytest.approx(seconds["source"]) and 0 < seconds["share_outside"] < 1
    assert seconds["pair"] * 2 == pytest.approx(seconds["source"]) and projection["extrapolated_by"] == 1
    assert projection["device_hours"] == pytest.approx(seconds["pair"] * 2)  # 3600 pairs, every other accepted
    memory = report["memory"]
    assert memory["predicted"] == memory["weights"] + memory["cache"] + memory["activations"]
    assert memory["measured"] == pytest.approx(memory["predicted"], rel=0.6)  # proportions of tiny models are odd
    shown = capsys.readouterr().out
    assert "device-hours for 3,600 pairs at 50% accepted" in shown and "extrapolated" not in shown


def test_the_papers_way_costs_more_rows(tmp_path: Path) -> None:
    fast, paper = (rehearsed(tmp_path, "--backbone", "tiny-flux", "--preset", p) for p in ("fast", "paper"))
    assert paper["rows"]["evaluations_per_pair"] == 3 * 5  # inversion, twin and variant of 4 + 1 calls each
    assert fast["rows"]["evaluations_per_pair"] < 0.3 * 15
    assert paper["compute"]["injection_calls"] == 4 * 5 and paper["memory"]["variants_together"] == 1


def test_a_part_of_the_blocks_is_extrapolated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = rehearsed(tmp_path, "--backbone", "tiny-flux", "--depth", "0.5")
    assert report["model"]["blocks"] == {"transformer_blocks": 1, "single_transformer_blocks": 2}
    seconds, projection = report["seconds"], report["projection"]
    assert projection["extrapolated_by"] == pytest.approx(2)
    outside = seconds["source"] - seconds["transformer"]
    assert projection["seconds_per_pair"] * 4 == pytest.approx(2 * seconds["transformer"] + outside)
    assert "extrapolated" in capsys.readouterr().out


def test_a_folder_is_rehearsed_with_its_own_weights(tmp_path: Path, random_flux: CheckpointRef) -> None:
    report = rehearsed(tmp_path, "--backbone", random_flux.uri, "--size", "64", "--dtype", "float32")
    assert report["model"]["weights"] == "its own" and report["model"]["pipeline"] == "FluxPipeline"


def test_compiling_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from artiagent.synthesis.backbones.base import PipelineBackbone

    original = PipelineBackbone.compile
    monkeypatch.setattr(PipelineBackbone, "compile", lambda backbone: original(backbone, backend="eager"))
    torch._dynamo.reset()
    report = rehearsed(tmp_path, "--backbone", "tiny-qwen-image", "--compile", "--depth", "0.5")
    torch._dynamo.reset()
    assert 0 < report["compiled"]["graphs"] <= 8
    assert report["compiled"]["first_source_seconds"] > report["seconds"]["source"]
    assert report["compute"]["injection_call_flops"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbone", "flux"], "expected flux-dev, flux-schnell, qwen-image"),
        (["--backbone", "tiny-flux", "--depth", "0"], "depth 0.0: expected more than 0"),
        (["--backbone", "tiny-flux", "--acceptance", "1.5"], "acceptance 1.5: expected"),
        (["--backbone", "tiny-flux", "--variants", "0"], "variants 0: expected at least 1"),
        (["--backbone", "tiny-flux", "--size", "30"], "multiples of 4 px"),
        (["--backbone", "some/folder", "--depth", "0.5"], "has the blocks it has"),
        (["--backbone", "tiny-flux", "--set", "planning.variants=2"], "keys of synthesis only"),
        (["--backbone", "tiny-flux", "--set", "synthesis.stepz=2"], "did you mean 'steps'"),
        (["--backbone", "tiny-flux", "--set", "synthesis.offload=blocks"], "needs an accelerator"),
    ],
)
def test_what_cannot_be_rehearsed_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["rehearse", "synthesis", "--device", "cpu", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_weights_that_do_not_fit_are_refused_before_they_are_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(architectures.psutil, "virtual_memory", lambda: SimpleNamespace(available=20 * 2**30))
    monkeypatch.setattr(architectures, "materialise", lambda *_: pytest.fail("built all the same"))
    assert cli.main(["rehearse", "synthesis", "--backbone", "flux-dev", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    for part in ("23,970,456,006 bytes on cpu, 21,474,836,480 are free", "--depth", "quantize=int8", "offload=blocks"):
        assert part in error


def needed(monkeypatch: pytest.MonkeyPatch, **settings: str) -> dict[str, int]:
    """Bytes that flux-dev is checked for, by device, as if this machine had a GPU."""
    asked: dict[str, int] = {}
    monkeypatch.setattr(architectures, "torch_device", torch.device)
    monkeypatch.setattr(architectures, "_check", lambda device, count: asked.__setitem__(device.type, count))
    architecture = ARCHITECTURES["flux-dev"]
    transformer = empty(adapter(architecture.pipeline).transformer_class, architecture.transformer)
    vae = empty(architectures._vae_class(architecture.pipeline), architecture.vae)
    architectures.check_fits(transformer, vae, SynthesisSection(device="cuda", dtype="bfloat16", **settings))
    return {device: round(count / 1e9, 1) for device, count in asked.items()}


def test_what_is_quantized_or_offloaded_is_made_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needed(monkeypatch) == {"cuda": 24.0}
    assert needed(monkeypatch, quantize="int8") == {"cpu": 24.0, "cuda": 12.1}
    assert needed(monkeypatch, offload="blocks") == {"cpu": 24.0, "cuda": 0.1}


@pytest.mark.parametrize(
    ("name", "billions", "layers"),
    [("flux-dev", 11.901, [19, 38]), ("flux-schnell", 11.891, [19, 38]), ("qwen-image", 20.430, [60])],
)
def test_the_named_architectures_have_their_published_sizes(name: str, billions: float, layers: list[int]) -> None:
    architecture = ARCHITECTURES[name]
    model = empty(adapter(architecture.pipeline).transformer_class, architecture.transformer)
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=1e-3)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert list(blocks(name, 1.0).values()) == layers
    assert list(blocks(name, 0.001).values()) == [1] * len(layers)


def test_weights_are_made_in_their_type() -> None:
    backbone = build("tiny-qwen-image", SynthesisSection(device="cpu", dtype="bfloat16"))
    for model in (backbone.pipe.transformer, backbone.pipe.vae):
        assert {(p.dtype, p.device.type, p.requires_grad) for p in model.parameters()} == {
            (torch.bfloat16, "cpu", False)
        }
    weight = backbone.pipe.transformer.transformer_blocks[0].img_mlp.net[0].proj.weight.float()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.1)
    assert backbone.pipe.transformer.pos_embed.pos_freqs.device.type == "cpu"  # no parameter, and needed as it is


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5, 1.0])
def test_rectangles_cover_the_share_that_is_asked_for(share: float) -> None:
    batch = rectangles((64, 64), 4, share, feather=1)
    assert len({injection.mapping.targets for (injection,) in batch}) == (1 if share == 1 else 4)
    for injections in batch:
        assert region_share(injections, 1) == pytest.approx(share, rel=0.1)
        assert not set(injections[0].mapping.targets) & set(injections[0].mapping.references) or share > 0.2


def test_a_rehearsals_rows_are_the_engines() -> None:
    section = synthesis_section("fast", ["synthesis.steps=10"], device="cpu", dtype="bfloat16")
    batch = rectangles((64, 64), 4, 0.15, section.feather)
    assert row_evaluations(section, batch) / 4 == pytest.approx(11 * (2 + 4 * 0.15) / 4, rel=0.05)
