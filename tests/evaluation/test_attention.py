"""Maps add up to one, lie where the tokens lie, and are what the model's own attention says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoModelForImageTextToText

from artiagent.config import EvaluationSection
from artiagent.evaluation.attention import (
    AttentionReport,
    Gaze,
    GazeReader,
    attend,
    coverage,
    localize,
    share_inside,
)
from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.grid import box_mask
from artiagent.instruction import prompts
from artiagent.records import Box
from artiagent.report.attention import STEPS, own_pictures, pictures, write_attention
from artiagent.report.strips import cells_path
from artiagent.vlm.local import LocalVlm
from tests.evaluation.conftest import bench_rows
from tests.learning.families import NAMES, write_family

SECTION = EvaluationSection(resamples=200, threads=1, batch_size=2, device="cpu")


@pytest.fixture(scope="module")
def reader(tiny_vlm):
    return GazeReader(tiny_vlm, SECTION)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_maps_are_distributions_on_the_image_s_grid(reader):
    images = [noise(128, 128), noise(128, 64, 1), noise(96, 128, 2)]
    gazes = reader.read(images)
    assert [gaze.attention.shape for gaze in gazes] == [(8, 8), (4, 8), (8, 6)]
    for gaze in gazes:
        for heat in (gaze.attention, gaze.weighted):
            assert heat.min() >= 0 and heat.sum() == pytest.approx(1)
        assert 0 < gaze.on_image < 1


@pytest.mark.parametrize("family", NAMES)
def test_every_family_is_read(family, tmp_path):
    reader = GazeReader(write_family(family, tmp_path), SECTION)
    (gaze,) = reader.read([noise(96, 64)])
    assert gaze.attention.shape == ((4, 4) if family == "InternVL" else (4, 6))  # one tile of 16 tokens; 16 px a token
    assert gaze.attention.sum() == pytest.approx(1) and gaze.weighted.sum() == pytest.approx(1)
    assert bool(reader.note) == (family == "InternVL")


def test_attention_is_the_model_s_own_and_batching_changes_nothing(reader, tiny_vlm):
    images = [noise(128, 128, seed) for seed in range(3)]
    gazes = reader.read(images)
    vlm = LocalVlm(tiny_vlm.uri, "cpu", threads=1)
    asked = vlm.yes_no(images, [prompts.render(prompts.BINARY)] * 3)
    assert [gaze.score for gaze in gazes] == pytest.approx(asked.tolist(), abs=1e-5)
    model = AutoModelForImageTextToText.from_pretrained(tiny_vlm.uri, attn_implementation="eager", dtype=torch.float32)
    content = [{"type": "image"}, {"type": "text", "text": prompts.render(prompts.BINARY)}]
    chat = vlm.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    batch = vlm.processor(text=chat, images=[Image.fromarray(images[0])], return_tensors="pt")
    with torch.no_grad():
        layers = model(**batch, output_attentions=True).attentions
    at = batch["input_ids"][0] == model.config.image_token_id
    expected = torch.stack([layers[k][0, :, -1, at] for k in reader.layers]).mean((0, 1))
    assert gazes[0].on_image == pytest.approx(float(expected.sum()), rel=1e-4)
    assert gazes[0].attention.ravel() == pytest.approx((expected / expected.sum()).numpy(), rel=1e-3)


def test_a_cell_of_the_map_is_the_place_of_the_image_that_its_token_encodes(reader):
    """What changes in the picture changes most the token of the cell in which the map would show it."""
    plain = np.full((64, 128, 3), 90, np.uint8)
    for row, column in ((0, 0), (1, 6), (3, 2)):
        marked = plain.copy()
        marked[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = noise(16, 16)
        batch = reader._batch([plain, marked])
        grid = reader._grids(batch, (batch["input_ids"] == reader.model.config.image_token_id).numpy())[0]
        with torch.no_grad():
            found = reader.model.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
        before, after = getattr(found, "pooler_output", found)
        moved = (after - before).norm(dim=-1).reshape(grid)
        assert np.unravel_index(int(moved.argmax()), grid) == (row, column)


def test_gradient_weighting_keeps_only_what_speaks_for_yes(reader):
    (gaze,) = reader.read([noise(128, 128)])
    assert not np.allclose(gaze.weighted, gaze.attention)
    assert (gaze.weighted == 0).any() or gaze.weighted.std() > gaze.attention.std()


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 60), st.integers(0, 40), st.integers(1, 30))
def test_an_even_spread_gives_a_region_its_share_of_the_image(rows, columns, x, y, side):
    region = box_mask(Box(x, y, x + side, y + side).clip(72, 56), 56, 72)
    even = np.full((rows, columns), 1 / (rows * columns))
    assert share_inside(even, region) == pytest.approx(region.mean(), abs=1e-9)
    assert coverage(region, (56, 72)) == pytest.approx(region.astype(float), abs=1e-9)


def planted(row: int, column: int) -> Gaze:
    heat = np.zeros((4, 4))
    heat[row, column] = 1
    return Gaze(heat, heat, 0.5, 0.9)


def item(name: str, faulty: bool) -> BenchmarkItem:
    return BenchmarkItem(
        item_id=name, faulty=faulty, width=64, height=64, boxes=(Box(16, 32, 32, 48),) if faulty else ()
    )


def test_a_model_that_looks_at_the_fault_gets_all_one_that_looks_away_nothing():
    items = [
        item("a", True),
        item("b", True),
        item("c", False),
        BenchmarkItem(item_id="d", faulty=True, width=8, height=8),
    ]
    gazes = {"sharp": [planted(2, 1), planted(2, 1), planted(0, 0), planted(0, 0)], "blind": [planted(0, 3)] * 4}
    found = localize(items, gazes)
    assert [row.item_id for row in found] == ["a", "b", "c"]  # the last is faulty without a region
    assert all(row.area == pytest.approx(1 / 16) for row in found)
    assert [row.inside["attention"]["sharp"] for row in found] == [1, 1, 0]
    assert [row.inside["weighted"]["blind"] for row in found] == [0, 0, 0]
    with pytest.raises(ValueError, match="none of 1 items is faulty with a ground-truth region"):
        localize([item("c", False)], {"sharp": [planted(0, 0)]})


def test_report_of_two_models_and_the_page(benchmark, tiny_vlm, tmp_path):
    other = tiny_vlm.model_copy(update={"name": "again"})
    report, gazes = attend([tiny_vlm, other], benchmark, SECTION)
    assert report.n == len(bench_rows()) and report.n_faulty == report.n // 2
    for variant in ("attention", "weighted"):
        figures = report.localization[variant]
        assert figures["tiny"] == figures["again"]
        assert figures["tiny"]["excess"].value == pytest.approx(
            figures["tiny"]["faulty"].value - figures["tiny"]["clean"].value
        )
        same = report.differences[variant]["again - tiny"]["faulty"]
        assert (same.value, same.low, same.high) == (0, 0, 0)
    row = report.items[0]
    box = np.zeros((128, 128), bool)
    box[16:48, 16:48] = True
    assert row.inside["attention"]["tiny"] == pytest.approx(share_inside(gazes["tiny"][row.item_id].attention, box))
    write_page(tmp_path, report, gazes, benchmark)


def write_page(folder, report, gazes, benchmark):
    from artiagent.evaluation.benchmarks import read_items

    shown = pictures(list(read_items(benchmark))[:2], gazes, report)
    write_attention(folder / "maps", report, shown)
    page = (folder / "maps" / "attention.html").read_text()
    assert page.count("data:image/") == 2 and 'href="http' not in page and str(folder) not in page
    assert page.count("× in the region") == 4  # two models and two variants of the faulty one of both
    assert AttentionReport.model_validate_json((folder / "maps" / "attention.json").read_text()) == report


def test_shading_is_in_units_of_an_even_spread():
    heat = np.full((4, 4), 0.5 / 15)
    heat[1, 2] = 0.5  # eight times an even spread
    (shown,) = own_pictures({"a.png": (encoded(), 40, 20)}, {"m": {"a.png": Gaze(heat, heat, 1.0, 0.5)}})
    drawn = shown["maps"][0]["drawn"]["attention"]
    one = np.zeros((4, 4), bool)
    one[1, 2] = True
    assert drawn["paths"] == [(sum(step <= 8 for step in STEPS), cells_path(one))]
    assert (drawn["sx"], drawn["sy"]) == (10, 5)


def encoded() -> bytes:
    from artiagent.images import encode

    return encode(noise(40, 20))


def test_what_cannot_be_read_is_said(tiny_vlm, reader, benchmark):
    with pytest.raises(ValueError, match="expected 1 to"):
        GazeReader(tiny_vlm, SECTION, layers=99)
    with pytest.raises(ValueError, match="expected distinct names"):
        attend([tiny_vlm, tiny_vlm], benchmark, SECTION)
    tiles = {"pixel_values": torch.zeros(5, 3, 8, 8)}  # one image cut into five
    with pytest.raises(ValueError, match="not one grid over each image"):
        reader._grids(tiles, np.ones((1, 80), bool))
    assert reader._grids({"pixel_values": torch.zeros(1, 3, 8, 8)}, np.ones((1, 16), bool)) == [(4, 4)]
