from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from artiagent.config import CurationSection
from artiagent.curation import alexnet as weights_of
from artiagent.curation.perceptual import Crop, load_metric, padded_crop, settled_metric, window_reason
from artiagent.records import Box
from artiagent.store import file_sha256

BOX = Box(40, 40, 64, 56)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """Random convolutions in torchvision's names and shapes."""
    from torchvision.models import alexnet

    torch.manual_seed(0)
    return {k: v for k, v in alexnet(weights=None).state_dict().items() if k.startswith("features")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, state: dict[str, torch.Tensor]) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, state: dict[str, torch.Tensor]) -> Path:
    """A .pth that is named as torchvision names its files."""
    path = tmp_path_factory.mktemp("server") / "alexnet.pth"
    torch.save(state, path)
    return path.rename(path.with_name(f"alexnet-owt-{file_sha256(path)[:8]}.pth"))


@pytest.fixture
def server(published: Path) -> Iterator[str]:
    """Serves the folder of `published` on 127.0.0.1."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(published.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()


def _lpips(weights: Path | str, **fields: object) -> CurationSection:
    return CurationSection(metric="lpips", lpips_weights=str(weights), device="cpu", **fields)


def _damaged(image: np.ndarray, box: Box) -> np.ndarray:
    other = image.copy()
    other[box.slices] = 255 - other[box.slices]
    return other


@given(st.data())
def test_a_crop_holds_its_box_and_is_large_enough(data: st.DataObject) -> None:
    height, width, least = (data.draw(st.integers(*limits)) for limits in ((8, 90), (8, 90), (1, 64)))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    picture = np.arange(height * width * 3).reshape(height, width, 3)
    crop, inner = padded_crop(picture, box, least)
    assert min(crop.shape[:2]) >= least
    assert np.array_equal(crop[inner.slices], picture[box.slices])
    assert crop.shape[0] <= max(height, least) and crop.shape[1] <= max(width, least)


def test_ssim_grows_with_the_damage_and_looks_only_at_the_box(image: np.ndarray) -> None:
    metric = load_metric(CurationSection(metric="ssim"))
    slight, elsewhere = image.copy(), image.copy()
    slight[BOX.slices] = slight[BOX.slices] // 2 + 60
    elsewhere[90:] = 0
    others = (image, elsewhere, slight, _damaged(image, BOX))
    distances = metric.distances([(image, other, BOX) for other in others])
    assert distances[0] == distances[1] == 0
    assert 0.02 < distances[2] < distances[3]
    assert distances == [metric.distance(image, other, BOX) for other in others]


def test_lpips_with_configured_weights(image: np.ndarray, weights: Path) -> None:
    metric = load_metric(_lpips(weights))
    assert metric.name == "lpips" and metric.window == (0.5, 0.9)
    assert metric.distance(image, image, BOX) == 0 < metric.distance(image, _damaged(image, BOX), BOX)


def _crops(image: np.ndarray) -> list[Crop]:
    """Crops of three sizes, mixed."""
    boxes = [Box(x, y, x + 8 * k, y + 16 * k) for k in (1, 2, 5) for x, y in ((0, 0), (24, 16), (80, 40))]
    return [(image, _damaged(image, box.clip(128, 128)), box.clip(128, 128)) for box in sorted(boxes)]


def test_lpips_does_not_depend_on_batching_autocast_or_default_type(image: np.ndarray, weights: Path) -> None:
    metric, crops = load_metric(_lpips(weights)), _crops(image)
    together = metric.distances(crops)
    assert [round(d, 9) for d in together] == [round(metric.distance(*crop), 9) for crop in crops]
    assert [round(d, 9) for d in metric.distances(crops[::-1])] == [round(d, 9) for d in together[::-1]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert metric.distances(crops) == together
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert metric.distances(crops) == together
    finally:
        torch.set_default_dtype(torch.float32)


def test_lpips_is_the_package_s_own_figure(image: np.ndarray, weights: Path) -> None:
    """The formula written out, with the linear layers read from the package's file here."""
    import lpips
    from safetensors.torch import load_file

    linear = torch.load(
        Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True
    )  # fmt: skip
    tower = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 11, 4, 2), torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2), torch.nn.Conv2d(64, 192, 5, 1, 2),
        torch.nn.ReLU(), torch.nn.MaxPool2d(3, 2), torch.nn.Conv2d(192, 384, 3, 1, 1), torch.nn.ReLU(),
        torch.nn.Conv2d(384, 256, 3, 1, 1), torch.nn.ReLU(), torch.nn.Conv2d(256, 256, 3, 1, 1), torch.nn.ReLU(),
    ).double()  # fmt: skip
    tower.load_state_dict({k.removeprefix("features."): v for k, v in load_file(weights).items()})
    shift, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in
                    ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))  # fmt: skip
    layers: list[list[torch.Tensor]] = []
    for side in (image[:64, :64], _damaged(image, BOX)[:64, :64]):
        x = (torch.from_numpy(side.copy()).permute(2, 0, 1).double() / 127.5 - 1 - shift) / scale
        found = []
        for layer in tower:
            x = layer(x).detach()
            if isinstance(layer, torch.nn.ReLU):
                found.append(x / (x.pow(2).sum(0, keepdim=True).sqrt() + 1e-10))
        layers.append(found)
    expected = sum(
        (linear[f"lin{k}.model.1.weight"].detach().double()[0] * (a - b) ** 2).sum(0).mean()
        for k, (a, b) in enumerate(zip(*layers, strict=True))
    )
    whole = Box(0, 0, 64, 64)
    measured = load_metric(_lpips(weights)).distance(image[:64, :64], _damaged(image, BOX)[:64, :64], whole)
    assert measured == pytest.approx(float(expected), rel=1e-6)


def test_lpips_takes_every_convolution_from_the_file(weights: Path) -> None:
    from safetensors.torch import load_file

    given_weights = load_file(weights)
    loaded = weights_of.lpips_model(weights).net.state_dict()
    assert len(loaded) == len(given_weights) == 10
    for name, value in loaded.items():
        assert torch.equal(value, given_weights[f"features.{name.split('.', 1)[1]}"])


def test_other_linear_layers_are_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_of, "VERSION", "0.0")
    with pytest.raises(ValueError, match=r"alex\.pth: not the linear layers of LPIPS 0\.0"):
        weights_of.lpips_model(weights)


def test_a_published_file_is_the_same_as_safetensors(image: np.ndarray, weights: Path, published: Path) -> None:
    crops = _crops(image)
    assert load_metric(_lpips(published)).distances(crops) == load_metric(_lpips(weights)).distances(crops)


def test_there_is_no_silent_fallback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lpips_weights is not set.*metric=ssim is the documented fallback"):
        load_metric(CurationSection(metric="lpips"))
    with pytest.raises(ValueError, match="no such file"):
        load_metric(_lpips(tmp_path / "none.safetensors"))
    with pytest.raises(ValueError, match="no such file"):
        settled_metric(_lpips(tmp_path / "none.safetensors"))
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not torchvision's AlexNet, lacks 'features.0"):
        load_metric(_lpips(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="was not settled"):
        load_metric(CurationSection(metric="auto"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.safetensors", b"\x08nonsense"), ("a.pth", b"nonsense"), ("b.pth", b"")]
)
def test_damaged_weights_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: cannot be read as weights"):
        load_metric(_lpips(tmp_path / name))


def test_code_in_a_pth_is_not_run(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"features.0.weight": Hostile()}, tmp_path / "hostile.pth")
    with pytest.raises(ValueError, match=r"hostile\.pth: cannot be read as weights"):
        load_metric(_lpips(tmp_path / "hostile.pth"))
    assert not (tmp_path / "ran").exists()


def test_auto_takes_lpips_where_the_weights_are(weights: Path) -> None:
    section, note = settled_metric(CurationSection(metric="auto", lpips_weights=str(weights), device="cpu"))
    assert (section.metric, section.lpips_sha256, note) == ("lpips", file_sha256(weights), "")
    assert load_metric(section).name == "lpips"
    assert settled_metric(section) == (section, "")


def test_auto_says_why_it_falls_back(tmp_path: Path) -> None:
    section, note = settled_metric(CurationSection(metric="auto"))
    assert section.metric == "ssim" and load_metric(section).window == section.ssim_window
    assert note == "ssim: LPIPS weights absent (curation.lpips_weights is not set)"
    assert settled_metric(section) == (section, note)
    assert section.digest() == CurationSection(metric="ssim").digest()  # a reason is no setting
    _, note = settled_metric(CurationSection(metric="auto", lpips_weights=str(tmp_path / "a.pth")))
    assert note == f"ssim: LPIPS weights absent ({tmp_path / 'a.pth'}: no such file)"
    assert settled_metric(CurationSection(metric="ssim")) == (CurationSection(metric="ssim"), "")


def test_auto_never_replaces_weights_that_are_not_the_expected_ones(weights: Path) -> None:
    wrong = CurationSection(metric="auto", lpips_weights=str(weights), lpips_sha256="0" * 64)
    with pytest.raises(ValueError, match="one of them is the wrong one"):
        settled_metric(wrong)
    with pytest.raises(ValueError, match="one of them is the wrong one"):
        load_metric(wrong.model_copy(update={"metric": "lpips"}))


def test_hub_downloads_once_and_checks_the_hash(
    server: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights_of, "_hub_url", lambda: f"{server}/{published.name}")
    section, note = settled_metric(CurationSection(metric="auto", lpips_weights="hub", device="cpu"))
    assert (section.metric, section.lpips_sha256, note) == ("lpips", file_sha256(published), "")
    cached = tmp_path / "hub" / "checkpoints" / published.name
    monkeypatch.setattr(weights_of, "_hub_url", lambda: f"http://127.0.0.1:9/{published.name}")  # nobody listens
    assert load_metric(section).name == "lpips"
    cached.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="damaged .*delete it and rerun"):
        settled_metric(section)


def test_hub_offline_is_an_error_or_the_named_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights_of, "_hub_url", lambda: "http://127.0.0.1:9/alexnet-owt-7be5be79.pth")
    with pytest.raises(ValueError, match=r"hub: http://127\.0\.0\.1:9/\S+ cannot be downloaded.*Connection refused"):
        load_metric(_lpips("hub"))
    section, note = settled_metric(CurationSection(metric="auto", lpips_weights="hub"))
    assert section.metric == "ssim" and note.startswith("ssim: LPIPS weights absent (hub: http://127.0.0.1:9/")
    assert not list(tmp_path.rglob("*.p*t*"))


def test_hub_refuses_another_file_under_the_name(
    server: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = published.with_name("alexnet-owt-00000000.pth")
    other.write_bytes(published.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(weights_of, "_hub_url", lambda: f"{server}/{other.name}")
    with pytest.raises(ValueError, match="is not what its name says"):
        settled_metric(CurationSection(metric="auto", lpips_weights="hub"))


def test_the_window_is_one_of_similarity() -> None:
    assert [window_reason(d, (0.5, 0.9)) for d in (0.05, 0.1, 0.3, 0.5, 0.51)] == [
        "too_similar", None, None, None, "too_damaged",
    ]  # fmt: skip
