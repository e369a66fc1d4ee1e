from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.grounding import GroundingError
from artiagent.perception.linking import link
from artiagent.perception.sources import SourceError, image_names, input_digest, iter_images, known_grounder, left_out
from artiagent.perception.sources.celeba_hq import LABELS, read_mask
from artiagent.perception.vocabulary import template

IMAGES, MASKS = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno"
SIDE = 32  # of the masks; the images have twice as much, as published
# label -> x0, y0, x1, y1 in the mask
FACE = {
    "hair": (6, 0, 26, 6), "skin": (8, 6, 24, 24), "l_eye": (18, 10, 21, 12), "r_eye": (11, 10, 14, 12),
    "nose": (14, 12, 18, 16), "u_lip": (13, 18, 19, 19), "mouth": (14, 19, 18, 20), "l_lip": (13, 20, 19, 21),
    "l_ear": (24, 10, 26, 16), "r_ear": (6, 10, 8, 16), "neck": (12, 24, 20, 28), "cloth": (0, 28, 32, 32),
}  # fmt: skip


def filled(*boxes: tuple[int, int, int, int], scale: int = 2) -> np.ndarray:
    mask = np.zeros((SIDE * scale, SIDE * scale), dtype=bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0 * scale : y1 * scale, x0 * scale : x1 * scale] = True
    return mask


def png(mask: np.ndarray, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def annotate(root: Path, number: int, labels: dict[str, tuple[int, int, int, int]] = FACE) -> None:
    for label, place in labels.items():
        path = root / MASKS / str(number // 2000) / f"{number:05d}_{label}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(filled(place, scale=1)))


@pytest.fixture
def source(write: Callable) -> InputSet:
    root = write(*(f"{IMAGES}/{number}.jpg" for number in (0, 1, 2000)), size=(2 * SIDE, 2 * SIDE))
    for number in (0, 2000):
        annotate(root, number)
    return InputSet(name="faces", layout="celeba_hq", images=str(root))


SECTION = PerceptionSection(patch=2, short_side=2 * SIDE, min_pixels=64)


@pytest.mark.parametrize("number", [0, 2000])
def test_masks_become_a_person_and_its_parts(source: InputSet, look: Callable, number: int) -> None:
    found = {i.id: i for i in look(source, f"{IMAGES}/{number}.jpg", SECTION).instances}
    assert {key: (i.name, i.layer) for key, i in found.items()} == {
        "person": ("person", "entity"), "l_ear": ("ear", "peripheral"), "r_ear": ("ear", "peripheral"),
        "l_eye": ("eye", "intermediate"), "r_eye": ("eye", "intermediate"), "nose": ("nose", "intermediate"),
        "mouth": ("mouth", "intermediate"), "face": ("face", "intermediate"),
    }  # fmt: skip
    assert np.array_equal(found["person"].mask, filled(*FACE.values()))
    assert np.array_equal(found["l_ear"].mask, filled(FACE["l_ear"]))
    assert np.array_equal(found["mouth"].mask, filled(*(FACE[k] for k in ("u_lip", "mouth", "l_lip"))))
    assert np.array_equal(found["face"].mask, filled(FACE["skin"]))


def test_parts_link_to_the_person(source: InputSet, look: Callable) -> None:
    found = look(source, f"{IMAGES}/0.jpg", SECTION).instances
    (person,), dropped = link(found, template(found, SECTION.containment), SECTION)
    assert sorted(part.name for part in person.parts) == ["ear", "ear", "eye", "eye", "face", "mouth", "nose"]
    assert not dropped


def test_labels_that_are_not_visible_have_no_file(source: InputSet, look: Callable) -> None:
    root = Path(source.images)
    annotate(root, 1, {"skin": FACE["skin"], "hat": FACE["hair"]})
    found = {i.id: i for i in look(source, f"{IMAGES}/1.jpg", SECTION).instances}
    assert set(found) == {"person", "face"}
    assert np.array_equal(found["person"].mask, filled(FACE["skin"], FACE["hair"]))
    assert len(LABELS) == len(set(LABELS)) == 18


def test_every_image_and_mask_has_one_place(source: InputSet, write: Callable, partition: Callable) -> None:
    root = write("cover.png", f"{IMAGES}/seven.jpg", f"{IMAGES}/deep/8.jpg")
    annotate(root, 29999, {"skin": FACE["skin"]})
    elsewhere = dict.fromkeys(["cover.png", f"{IMAGES}/deep/8.jpg", f"{IMAGES}/seven.jpg"], "not_in_layout")
    assert partition(source) == (
        {f"{IMAGES}/{number}.jpg" for number in (0, 1, 2000)},
        {**elsewhere, f"{IMAGES}/29999.jpg": "missing_file"},
    )
    assert {image.subject for image in iter_images(source)} == {"person"}


def test_images_without_masks_are_errors_of_their_own(source: InputSet, look: Callable) -> None:
    with pytest.raises(GroundingError, match="1.jpg: no masks for it below CelebAMask-HQ-mask-anno"):
        look(source, f"{IMAGES}/1.jpg", SECTION)
    misplaced = Path(source.images) / MASKS / "7" / "00001_skin.png"
    misplaced.parent.mkdir()
    misplaced.write_bytes(png(filled(FACE["skin"], scale=1)))  # number 1 belongs into folder 0
    with pytest.raises(GroundingError, match="no masks"):
        look(source, f"{IMAGES}/1.jpg", SECTION)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable PNG mask"),
        (png(filled(FACE["skin"]))[:60], "not a readable PNG mask"),
        (png(np.ones((32, 16))), "mask of 16x32 px for an image of 64x64 px"),
        (png(np.ones((8192, 8192), dtype=bool), "1"), "mask of 8192x8192 px"),
    ],
)
def test_damaged_masks_concern_their_image_only(source: InputSet, take: Callable, data: bytes, message: str) -> None:
    (Path(source.images) / MASKS / "0" / "00000_nose.png").write_bytes(data)
    names = [f"{IMAGES}/0.jpg", f"{IMAGES}/2000.jpg"]
    images = [take(source, name, SECTION) for name in names]
    error, found = known_grounder(source).ground(images, names, [None, None])
    assert f"{IMAGES}/0.jpg: {MASKS}/0/00000_nose.png: {message}" in str(error)
    assert len(found.instances) == 8


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA"])
def test_masks_of_any_mode_are_set_where_they_are_not_black(mode: str) -> None:
    mask = filled(FACE["skin"], scale=1)
    assert np.array_equal(read_mask(png(mask, mode), (SIDE, SIDE)), mask)
    assert np.array_equal(read_mask(png(mask, mode), (SIDE * 3, SIDE * 3)), filled(FACE["skin"], scale=3))


def test_masks_behind_links_out_of_the_set_are_not_read(source: InputSet, tmp_path: Path, look: Callable) -> None:
    outside = (Path(source.images) / MASKS / "0").rename(tmp_path / "elsewhere")
    (Path(source.images) / MASKS / "0").symlink_to(outside)
    with pytest.raises(GroundingError, match="no masks"):
        look(source, f"{IMAGES}/0.jpg", SECTION)


def test_a_plain_folder_has_no_masks(write: Callable) -> None:
    root = write("celeba_hq/00001.jpg", "celeba_hq/train/b.jpg")
    source = InputSet(name="faces", layout="celeba_hq", images=str(root))
    assert image_names(source) == ("celeba_hq/00001.jpg", "celeba_hq/train/b.jpg")
    assert known_grounder(source) is None
    assert [image.subject for image in iter_images(source)] == ["person", "person"]


def test_the_archive_s_own_folder_may_stand_between(source: InputSet, tmp_path: Path) -> None:
    expected = input_digest(source)
    (tmp_path / "outer").mkdir()
    Path(source.images).rename(tmp_path / "outer" / "CelebAMask-HQ")
    assert input_digest(source.model_copy(update={"images": str(tmp_path / "outer")})) == expected


def test_digest_follows_the_masks_of_the_images_used(source: InputSet) -> None:
    first, limited = input_digest(source), source.model_copy(update={"limit": 2})
    before = input_digest(limited)
    annotate(Path(source.images), 2000, {"nose": (0, 0, 4, 4)})
    assert input_digest(source) != first
    assert input_digest(limited) == before


def test_filters_know_one_person_per_image(source: InputSet) -> None:
    assert len(image_names(source.model_copy(update={"categories": ("person",), "instances": (1, 2)}))) == 3
    for update, message in (
        ({"categories": ("persons",)}, "unknown 'persons'; did you mean 'person'"),
        ({"instances": (2, 2)}, "filtered_instances 3"),
        ({"annotations": "x.json"}, "does not read 'annotations'"),
    ):
        with pytest.raises(SourceError, match=message):
            image_names(source.model_copy(update=update))
    assert left_out(source) == {}
