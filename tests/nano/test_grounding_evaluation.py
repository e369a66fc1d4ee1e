"""Figures of grounding: matching, linking, intervals; a perfect detector and segmenter reach 1."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from artiagent.cli import main
from artiagent.config import PerceptionSection
from artiagent.images import decode
from artiagent.nano.grounding_evaluation import (
    GivenBoxes,
    Sample,
    box_figures,
    box_iou,
    evaluate_grounding,
    held_out,
    match,
    score,
    summarise,
    tally_boxes,
    terms_of,
    true_boxes,
)
from artiagent.nano.grounding_sheet import draw_sheet
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene
from artiagent.nano.views import view_of
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.nano.vl_tasks import everywhere
from artiagent.perception.grounding import Detection
from artiagent.perception.grounding.sam import SamSizes, build_sam

SECTION = PerceptionSection()


@pytest.fixture(scope="module")
def samples() -> dict[str, list[Sample]]:
    return held_out(6, SECTION.containment)


def test_sets_of_scenes(samples: dict[str, list[Sample]]) -> None:
    assert {name: len(rows) for name, rows in samples.items()} == {"any": 6, "alike": 2}
    assert all(sample.alike for sample in samples["alike"])
    for sample in samples["any"]:
        assert set(sample.terms) <= {instance.name for instance in sample.instances}
        assert len(sample.terms) == len(set(sample.terms))


def test_the_truth_itself_is_perfect(samples: dict[str, list[Sample]]) -> None:
    rows = [score(sample, true_boxes(sample), sample.instances, SECTION) for sample in samples["alike"]]
    figures = summarise(rows)
    assert figures.pop("scenes") == 2
    assert set(figures) == {
        f"{level}_{figure}"
        for level in ("entity", "part")
        for figure in ("box_recall", "box_precision", "mask_iou", "mask_iou_all")
    } | {"mask_iou", "mask_iou_all", "linking", "linked", "yield"}
    assert all(figure["value"] == figure["low"] == figure["high"] == 1 for figure in figures.values())


def test_a_missed_part_counts_in_recall_and_yield_only(samples: dict[str, list[Sample]]) -> None:
    sample = samples["alike"][0]
    lost = next(i for i in sample.instances if i.id in sample.owners and i.name in sample.terms)
    found = [instance for instance in sample.instances if instance is not lost]
    boxes = [d for d in true_boxes(sample) if d.phrase != lost.name]
    figures = score(sample, boxes, found, SECTION)
    top, bottom = figures["part_mask_iou_all"]
    assert top == bottom - 1 and figures["part_mask_iou"] == (bottom - 1, bottom - 1)
    assert figures["yield"][1] - figures["yield"][0] == 1 and figures["linking"][0] == figures["linking"][1]
    named = sum(instance.name == lost.name for instance in sample.instances)
    assert figures["part_box_recall"][1] - figures["part_box_recall"][0] == named
    assert figures["part_box_precision"][0] == figures["part_box_precision"][1]


def test_a_part_at_the_wrong_entity_is_not_linked_rightly(samples: dict[str, list[Sample]]) -> None:
    """Two entities swap their ids: every part that is linked hangs on the other one."""
    sample = samples["alike"][0]
    first, second = (i for i in sample.instances if i.layer == "entity")
    union = first.mask | second.mask
    small = replace(second, mask=np.zeros_like(union))
    found = [replace(first, mask=union), small, *(i for i in sample.instances if i.layer != "entity")]
    figures = score(sample, true_boxes(sample), found, SECTION)
    of_second = sum(owner == second.id for part, owner in sample.owners.items())
    assert figures["linking"][1] - figures["linking"][0] >= min(1, of_second)
    assert figures["linking"][0] < figures["linking"][1]


def test_things_of_another_name_do_not_match(samples: dict[str, list[Sample]]) -> None:
    sample = samples["any"][0]
    named = [replace(i, name="unicorn") if i.layer == "entity" else i for i in sample.instances]
    figures = score(sample, [Detection("unicorn", d.box, 1.0) for d in true_boxes(sample)], named, SECTION)
    assert figures["entity_mask_iou_all"][0] == 0 < figures["entity_mask_iou_all"][1]
    assert figures["part_box_recall"][0] == figures["part_box_precision"][1] == figures["yield"][0] == 0


class Perfect:
    """Knows the boxes of every scene that it will be shown; adds one box to each answer about a present term."""

    name = "perfect"

    def __init__(self, first_seed: int, scenes: int, extra: bool) -> None:

        self.views = [view_of(render_scene(first_seed + n)) for n in range(scenes)]
        self.extra = extra

    def detect(self, images: list[np.ndarray], terms: list[list[str]]) -> list[list[Detection]]:

        found = []
        for view, names in zip(self.views, terms, strict=True):
            boxes = [(name, box) for name in names for box in everywhere(view, name)]
            more = [(name, (0, 0, 2, 2)) for name in names if self.extra and everywhere(view, name)]
            found.append([Detection(name, tuple(map(float, box)), 1.0) for name, box in (*boxes, *more)])
        return found


def test_boxes_of_a_perfect_detector_and_of_one_that_sees_too_much() -> None:
    first = TRAIN_SEEDS[60]
    figures = box_figures(Perfect(first, 4, False), first_seed=first, scenes=4)
    for kind in ("entities", "parts"):
        assert figures[kind] == {"recall": 1.0, "precision": 1.0, "iou": 1.0, "boxes": figures[kind]["boxes"]}
    more = box_figures(Perfect(first, 4, True), first_seed=first, scenes=4)
    assert more["parts"]["recall"] == 1 > more["parts"]["precision"] and more["malformed"] == {}


def test_absent_terms_are_asked() -> None:

    asked = terms_of(view_of(render_scene(TRAIN_SEEDS[61])), random.Random(0))
    assert sum(not boxes for boxes in asked.values()) == 2


numbers = st.integers(0, 40)


@given(numbers, numbers, st.integers(1, 20), st.integers(1, 20), numbers, numbers)
def test_iou_is_symmetric_and_one_for_equal_boxes(x: int, y: int, w: int, h: int, u: int, v: int) -> None:
    one, other = np.array([[x, y, x + w, y + h]], float), np.array([[u, v, u + h, v + w]], float)
    assert box_iou(one, one)[0, 0] == 1
    assert box_iou(one, other)[0, 0] == box_iou(other, one)[0, 0] <= 1
    cells = [np.zeros((64, 64), bool) for _ in range(2)]
    for cell, box in zip(cells, (one, other), strict=True):
        x0, y0, x1, y1 = box[0].astype(int)
        cell[y0:y1, x0:x1] = True
    assert box_iou(one, other)[0, 0] == pytest.approx((cells[0] & cells[1]).sum() / (cells[0] | cells[1]).sum())


def test_matching_is_one_to_one_and_as_good_as_possible() -> None:
    overlap = np.array([[0.9, 0.8], [0.85, 0.1], [0.0, 0.2]])
    assert match(overlap, 0.3) == [(0, 1), (1, 0)]
    assert match(np.zeros((0, 3)), 0.3) == match(np.zeros((2, 0)), 0.3) == []
    assert tally_boxes([(0, 0, 4, 4)], [(0, 0, 4, 8), (20, 20, 24, 24)]).tolist() == [1, 2, 1, 0.5]
    assert tally_boxes([], [(0, 0, 4, 8)]).tolist() == [0, 1, 0, 0]


class FillsTheBox:
    """A segmenter that takes the box for the mask."""

    name = "box"

    def segment(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        masks = [np.zeros((len(found), *image.shape[:2]), bool) for image, found in zip(images, boxes, strict=True)]
        for filled, found in zip(masks, boxes, strict=True):
            for mask, (x0, y0, x1, y1) in zip(filled, found.astype(int), strict=True):
                mask[y0:y1, x0:x1] = True
        return masks


def test_true_boxes_are_the_ceiling_of_a_detector() -> None:
    samples = [sample for rows in held_out(3, SECTION.containment).values() for sample in rows]
    said = [true_boxes(sample)[1:] for sample in samples]  # misses the first box of every scene
    detector = GivenBoxes([sample.image for sample in samples], said)
    report, shown = evaluate_grounding(detector, FillsTheBox(), SECTION, 3)
    assert (report["detector"], report["segmenter"], report["malformed"]) == ("given", "box", {})
    assert len(shown.samples) == len(shown.detections) == len(shown.instances) == 3
    for name in ("any", "alike"):
        found, ideal = report[name]["detected"], report[name]["true_boxes"]
        assert ideal["entity_box_recall"]["value"] == ideal["part_box_recall"]["value"] == 1
        assert found["entity_box_recall"]["value"] < 1 and found["entity_box_precision"]["value"] == 1
        assert found["mask_iou_all"]["value"] < ideal["mask_iou_all"]["value"] < 1
        assert ideal["mask_iou"]["low"] <= ideal["mask_iou"]["value"] <= ideal["mask_iou"]["high"]
        assert found["yield"]["value"] < ideal["yield"]["value"]


def test_the_sheet_shows_truth_boxes_and_masks(samples: dict[str, list[Sample]]) -> None:
    sample = samples["any"][0]
    detections = true_boxes(sample)
    strip = ("title", sample.image, sample.instances, detections, [])
    sheet = draw_sheet([strip, strip, strip])
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    left = sheet[14 : 14 + 256, : 3 * 256]
    plain = sample.image.repeat(2, 0).repeat(2, 1)
    changed = [(left[:, 256 * k : 256 * k + 256] != plain).any(2) for k in range(3)]
    covered = np.logical_or.reduce([instance.mask for instance in sample.instances]).repeat(2, 0).repeat(2, 1)
    assert changed[0][covered].mean() > 0.2 and not changed[0][~covered].any()
    assert 0 < changed[1].mean() < 0.5 and not changed[2].any()


def test_the_command_writes_figures_and_sheet(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    tokenizer = build_tokenizer()
    save_model(
        tmp_path / "vl", build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer)
    )
    sizes = SamSizes(
        image_size=64, patch_size=8, embed_dim=32, depth=1, num_heads=2, global_attention=(0,), window_size=4,
        out_channels=32, decoder_heads=2, decoder_mlp=32, multimask_outputs=0, mask_channels=4,
    )  # fmt: skip
    (tmp_path / "sam").mkdir()
    (tmp_path / "sam" / "config.json").write_text(sizes.model_dump_json())
    save_file(build_sam(sizes).state_dict(), tmp_path / "sam" / "model.safetensors")
    arguments = ["--scenes", "1", "--out", str(tmp_path / "out"), "--set", "perception.detection.threads=1"]
    folders = ["--detector", str(tmp_path / "vl"), "--segmenter", str(tmp_path / "sam")]
    assert main(["nano", "grounding", *folders, *arguments]) == 0
    report = json.loads((tmp_path / "out" / "grounding.json").read_text())
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{\n") :]) == report
    assert report["detector"] == "vlm:vl" and report["any"]["detected"]["scenes"] == 1
    assert report["any"]["true_boxes"]["part_box_recall"]["value"] == 1
    assert decode((tmp_path / "out" / "grounding.png").read_bytes()).shape[2] == 3
