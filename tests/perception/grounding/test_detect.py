"""Vocabulary -> boxes -> masks -> instances, through stubs and through every backend with random weights."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import DetectionSection, PerceptionSection
from artiagent.perception.grounding import Detection, Grounding, GroundingError, MaskedDetection
from artiagent.perception.grounding.detect import DetectorGrounder, WeightsError, load_grounder
from artiagent.perception.intake import Intake
from artiagent.perception.linking import link
from artiagent.perception.vocabulary import Entry, Vocabulary
from artiagent.store import file_sha256, folder_sha256

Take = Callable[[np.ndarray], Intake]
PEOPLE = Vocabulary(
    peripheral=(Entry(entity="person", subentities=("hand",)), Entry(entity="dog", subentities=("tail", "ear"))),
    intermediate=(Entry(entity="person", subentities=("face", "arm")), Entry(entity="cat", subentities=("tail",))),
)
DOGS = Vocabulary(peripheral=(Entry(entity="dog", subentities=("tail",)),))
REASONS = {"unknown_phrase", "box_outside", "suppressed", "synonym", "empty_mask"}
LINK_REASONS = {"entity_too_small", "no_part", "too_small", "too_large", "no_parent", "not_in_vocabulary"}


class Boxes:
    """A detector that knows where things are: term -> (box, score) of an image's mean colour."""

    name = "boxes"

    def __init__(self, known: dict[int, list[Detection]]) -> None:
        self.known, self.asked = known, []

    def detect(self, images: Sequence[np.ndarray], terms: Sequence[Sequence[str]]) -> list[list[Detection]]:
        self.asked.append([list(of_image) for of_image in terms])
        return [
            [d for d in self.known[int(image.mean())] if d.phrase in names or d.phrase in ("", "zebra")]
            for image, names in zip(images, terms, strict=True)
        ]


class Filled:
    """A segmenter that fills boxes, pixels whose centre is inside; a box of a pixel's width yields nothing."""

    name = "filled"

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        masks = []
        for image, of_image in zip(images, boxes, strict=True):
            y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
            inside = [(x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3]) & (b[2] - b[0] > 1) for b in of_image]
            masks.append(np.array(inside, dtype=bool).reshape(-1, *image.shape[:2]))
        return masks


def grey(level: int, height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def test_known_boxes_become_instances(taken: Take) -> None:
    """The order of coordinates, golden: (x0, y0, x1, y1) of 100 x 60 px -> rows y0 to y1, columns x0 to x1."""
    known = [
        Detection("person", (10, 5, 50, 55), 0.9), Detection("hand", (12.4, 30, 20, 38.6), 0.8),
        Detection("tail", (60, 20, 70, 40), 0.7), Detection("dog", (55, 10, 130, 60), 0.6),
    ]  # fmt: skip
    detector = Boxes({7: known})
    grounder = DetectorGrounder(detector, Filled(), DetectionSection())
    assert grounder.name == "boxes+filled" and grounder.needs_vocabulary
    (grounding,) = grounder.ground([taken(grey(7, 60, 100))], ["a.jpg"], [PEOPLE])
    assert detector.asked == [[["person", "dog", "cat"], ["hand", "tail", "ear", "face", "arm"]]]
    found = [(i.id, i.name, i.layer, i.score) for i in grounding.instances]
    assert found == [
        ("e0", "person", "entity", 0.9), ("e1", "dog", "entity", 0.6),
        ("p0", "hand", "peripheral", 0.8), ("p1", "tail", "both", 0.7),
    ]  # fmt: skip
    masks = {i.name: i.mask for i in grounding.instances}
    assert [box_of(masks[n]) for n in ("person", "dog", "hand", "tail")] == [
        (10, 5, 50, 55), (55, 10, 100, 60), (12, 30, 20, 39), (60, 20, 70, 40),
    ]  # fmt: skip
    assert {mask.shape for mask in masks.values()} == {(60, 100)} and not grounding.dropped
    assert masks["person"][5:55, 10:50].all() and masks["person"].sum() == 40 * 50


def test_what_is_dropped_has_its_reason(taken: Take) -> None:
    known = [
        Detection("dog", (0, 0, 50, 50), 0.9), Detection("dog", (0, 0, 50, 45), 0.8), Detection("", (0, 0, 9, 9), 0.5),
        Detection("tail", (200, 0, 210, 9), 0.5), Detection("tail", (3, 3, 4, 30), 0.5),
        Detection("zebra", (0, 0, 9, 9), 0.5),
    ]  # fmt: skip
    (grounding,) = DetectorGrounder(Boxes({7: known}), Filled(), DetectionSection()).ground(
        [taken(grey(7, 64, 64))], ["a.jpg"], [DOGS]
    )
    assert [i.id for i in grounding.instances] == ["e0"]
    assert grounding.dropped == {"unknown_phrase": 4, "box_outside": 1, "suppressed": 1, "empty_mask": 1}


def test_a_face_that_fills_its_person_stays(taken: Take) -> None:
    portrait = [Detection("person", (0, 0, 64, 64), 0.6), Detection("face", (0, 0, 64, 63), 0.9)]
    (grounding,) = DetectorGrounder(Boxes({7: portrait}), Filled(), DetectionSection()).ground(
        [taken(grey(7, 64, 64))], ["a.jpg"], [PEOPLE]
    )
    assert [(i.id, i.name) for i in grounding.instances] == [("e0", "person"), ("p0", "face")]


def test_a_name_may_be_an_entity_and_a_part(taken: Take) -> None:
    vocabulary = Vocabulary(
        intermediate=(Entry(entity="face", subentities=("eye",)), Entry(entity="person", subentities=("face",)))
    )
    known = [Detection("face", (0, 0, 20, 20), 0.6)]
    (grounding,) = DetectorGrounder(Boxes({7: known}), Filled(), DetectionSection()).ground(
        [taken(grey(7, 64, 64))], ["a.jpg"], [vocabulary]
    )
    assert [(i.id, i.name, i.layer) for i in grounding.instances] == [
        ("e0", "face", "entity"), ("p0", "face", "intermediate"),
    ]  # fmt: skip


def test_images_without_vocabulary_are_errors_and_concern_no_other(taken: Take) -> None:
    detector = Boxes({level: [Detection("dog", (0, 0, 10, 10 + level), 0.9)] for level in range(6)})
    grounder = DetectorGrounder(detector, Filled(), DetectionSection(batch=2))
    vocabularies = [DOGS, None, DOGS, Vocabulary(), DOGS, PEOPLE]
    found = grounder.ground(
        [taken(grey(level, 32, 40)) for level in range(6)], [f"{n}.jpg" for n in range(6)], vocabularies
    )
    assert [type(f) for f in found] == [Grounding, GroundingError, Grounding, GroundingError, Grounding, Grounding]
    assert str(found[1]).startswith("1.jpg: no vocabulary") and str(found[3]).startswith("3.jpg: no vocabulary")
    assert [box_of(found[n].instances[0].mask)[3] for n in (0, 2, 4, 5)] == [10, 12, 14, 15]  # each its own
    assert [len(asked) for asked in detector.asked] == [4, 4]  # two images at a time, two levels each


def test_detections_that_carry_masks_need_no_segmenter(taken: Take) -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[10:20, 30:35] = True
    known = [MaskedDetection("dog", (0, 0, 64, 80), 0.9, mask), MaskedDetection("dog", (0, 0, 64, 79), 0.8, ~mask)]
    grounder = DetectorGrounder(Boxes({7: known}), None, DetectionSection())
    (grounding,) = grounder.ground([taken(grey(7, 64, 64))], ["a.jpg"], [DOGS])
    assert grounder.name == "boxes" and np.array_equal(grounding.instances[0].mask, mask)
    assert grounding.dropped == {"suppressed": 1}


def test_two_people_keep_their_hands_and_a_part_half_outside_is_lost(taken: Take) -> None:
    vocabulary = Vocabulary(peripheral=(Entry(entity="person", subentities=("hand",)),))
    known = [
        Detection("person", (0, 0, 60, 128), 0.9), Detection("person", (64, 0, 128, 128), 0.8),
        Detection("hand", (100, 40, 120, 60), 0.9), Detection("hand", (2, 40, 22, 60), 0.7),
        Detection("hand", (74, 90, 94, 110), 0.7), Detection("hand", (50, 10, 70, 30), 0.6),
    ]  # fmt: skip
    section = PerceptionSection()
    (grounding,) = DetectorGrounder(Boxes({7: known}), Filled(), section.detection).ground(
        [taken(grey(7, 128, 128))], ["a.jpg"], [vocabulary]
    )
    entities, dropped = link(grounding.instances, vocabulary, section)
    assert {e.id: [p.id for p in e.parts] for e in entities} == {"e0": ["p1"], "e1": ["p0", "p2"]}
    assert dropped == {"no_parent": 1}


BACKENDS = {
    "groundingdino+sam": ("grounded_sam", "dino_folder", "sam_folder"),
    "grounding-dino+sam2": ("transformers", "transformers_dino_folder", "sam2_folder"),
    "sam3": ("transformers", "sam3_folder", None),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_random_weights_run_the_chain_and_reject_for_stated_reasons(
    name: str, request: pytest.FixtureRequest, noise: list[np.ndarray], taken: Take
) -> None:
    grounding, detector, segmenter = BACKENDS[name]
    places = {"detector": str(request.getfixturevalue(detector))}
    places |= {"segmenter": str(request.getfixturevalue(segmenter))} if segmenter else {"segmenter": "nowhere"}
    section = PerceptionSection(
        grounding=grounding,
        detection=DetectionSection(
            **places, device="cpu", threads=1, text_encoder="nowhere", box_threshold=0, text_threshold=0
        ),
        patch=1,
    )
    grounder = load_grounder(section)
    assert [part.split(":")[0] for part in grounder.name.split("+")] == name.split("+")
    vocabularies = [DOGS, Vocabulary(), DOGS, DOGS]
    found = grounder.ground([taken(image) for image in noise], ["a", "b", "c", "d"], vocabularies)
    assert isinstance(found[1], GroundingError)
    for image, grounding_ in ((noise[n], found[n]) for n in (0, 2, 3)):
        assert {i.mask.shape for i in grounding_.instances} == {image.shape[:2]}
        assert {i.name for i in grounding_.instances} <= {"dog", "tail"} and {*grounding_.dropped} <= REASONS
        entities, dropped = link(grounding_.instances, DOGS, section)
        parts = sum(len(entity.parts) for entity in entities)
        assert {*dropped} <= LINK_REASONS
        assert len(entities) + parts + dropped.total() == len(grounding_.instances)


def test_boxes_that_no_term_can_be_named_for_are_counted(dino_folder: Path, sam_folder: Path, taken: Take) -> None:
    detection = DetectionSection(
        detector=str(dino_folder), segmenter=str(sam_folder), device="cpu", threads=1, box_threshold=0, text_threshold=1
    )
    grounder = load_grounder(PerceptionSection(grounding="grounded_sam", detection=detection))
    (found,) = grounder.ground([taken(grey(90, 64, 64))], ["a"], [DOGS])
    assert found.instances == () and found.dropped == {"unknown_phrase": 2 * 12}  # all queries of both levels


def test_boxes_may_come_from_a_vision_language_model(
    tmp_path: Path, sam_folder: Path, taken: Take, noise: list[np.ndarray]
) -> None:
    from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model

    tokenizer = build_tokenizer()
    save_model(
        tmp_path / "vl", build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer)
    )
    detection = DetectionSection(
        boxes="vlm", detector=str(tmp_path / "vl"), segmenter=str(sam_folder), device="cpu", threads=1
    )
    grounder = load_grounder(PerceptionSection(grounding="grounded_sam", detection=detection))
    assert grounder.name == f"vlm:vl+sam:{sam_folder.name}"
    (found,) = grounder.ground([taken(noise[0])], ["a"], [DOGS])
    assert isinstance(found, Grounding) and grounder.detector.asked == 2  # "dog" and "tail"


def test_missing_weights_are_one_error_that_says_what_goes_where(sam3_folder: Path, dino_folder: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_grounder(PerceptionSection(grounding="grounded_sam"))
    text = str(caught.value)
    assert all(f"perception.detection.{setting}: " in text for setting in ("detector", "text_encoder", "segmenter"))
    assert "groundingdino_swinb_cogcoor.pth" in text and "sam_vit_b_01ec64.pth" in text and "current folder" in text
    own = DetectionSection(detector=str(dino_folder))
    with pytest.raises(WeightsError) as caught:  # such a folder brings its text encoder
        load_grounder(PerceptionSection(grounding="grounded_sam", detection=own))
    assert "detection.segmenter" in str(caught.value) and "text_encoder:" not in str(caught.value)
    with pytest.raises(WeightsError, match="facebook/sam3"):
        load_grounder(PerceptionSection(grounding="transformers"))
    with pytest.raises(WeightsError, match="hub id of a VLM"):
        load_grounder(PerceptionSection(grounding="grounded_sam", detection=DetectionSection(boxes="vlm")))


def test_packages_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "groundingdino", None)
    with pytest.raises(ValueError, match=r"needs groundingdino-py: .*artiagent\[grounding\]"):
        load_grounder(PerceptionSection(grounding="grounded_sam"))
    with pytest.raises(WeightsError):  # not needed there
        load_grounder(PerceptionSection(grounding="grounded_sam", detection=DetectionSection(boxes="vlm")))


def test_digests_are_checked_where_given(transformers_dino_folder: Path, sam2_folder: Path) -> None:
    def section(**digests: str) -> PerceptionSection:
        places = {"detector": str(transformers_dino_folder), "segmenter": str(sam2_folder)}
        return PerceptionSection(
            grounding="transformers", detection=DetectionSection(**places, **digests, device="cpu", threads=1)
        )

    right = folder_sha256(transformers_dino_folder)
    load_grounder(section(detector_sha256=right, segmenter_sha256=folder_sha256(sam2_folder)))
    for setting in ("detector_sha256", "segmenter_sha256"):
        with pytest.raises(WeightsError, match=f"perception.detection.{setting} is {'0' * 64}"):
            load_grounder(section(**{setting: "0" * 64}))


def test_a_tampered_file_is_refused(dino_folder: Path, sam_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(dino_folder, tmp_path / "folder")
    before = folder_sha256(folder)
    (folder / "text_encoder" / "note.txt").write_text("changed")
    assert file_sha256(folder / "model.safetensors") == file_sha256(dino_folder / "model.safetensors")
    detection = DetectionSection(detector=str(folder), detector_sha256=before, segmenter=str(sam_folder))
    with pytest.raises(WeightsError, match="fetch it again"):
        load_grounder(PerceptionSection(grounding="grounded_sam", detection=detection))


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
