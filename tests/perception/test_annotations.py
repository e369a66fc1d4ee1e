from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from artiagent.config import PerceptionSection
from artiagent.perception.grounding import Grounding, GroundingError
from artiagent.perception.grounding.annotations import (
    AnnotationError,
    AnnotationGrounder,
    decode_rle,
    fill_polygons,
    read_annotations,
)
from artiagent.perception.intake import Intake, take_in

SECTION = PerceptionSection()


def document(**changes: Any) -> dict[str, Any]:
    """One 160x128 image with a box (16, 16, 48, 64) as a polygon."""
    square = [[16, 16, 48, 16, 48, 64, 16, 64]]
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 160, "height": 128}],
        "categories": [{"id": 1, "name": "Dining_Table"}, {"id": 2, "name": "leg"}],
        "annotations": [{"id": 31, "image_id": 7, "category_id": 1, "segmentation": square}],
        **changes,
    }


def found_in(backend: AnnotationGrounder, image: Intake, name: str = "a.png") -> Grounding:
    """The one grounding; raises where it is an error."""
    (result,) = backend.ground([image], [name], [None])
    if isinstance(result, GroundingError):
        raise result
    return result


def photo(orientation: int = 1, size: tuple[int, int] = (160, 128)) -> Intake:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(buffer, "PNG", exif=exif)
    return take_in(buffer.getvalue(), "a.png", SECTION)


@pytest.fixture
def grounder(tmp_path: Path) -> Callable[..., AnnotationGrounder]:
    def make(content: dict[str, Any] | bytes) -> AnnotationGrounder:
        path = tmp_path / "coco.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return read_annotations(path)

    return make


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), height=st.integers(1, 40), width=st.integers(1, 40), density=st.floats(0, 1))
def test_run_lengths_agree_with_pycocotools(seed: int, height: int, width: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    compressed = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert np.array_equal(decode_rle({"size": [height, width], "counts": compressed}, mask.shape), mask)
    edges = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False)).tolist()
    counts = np.diff([0, *edges, mask.size]).tolist()
    assert np.array_equal(decode_rle({"size": [height, width], "counts": counts}, mask.shape), mask)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-50, 150), st.integers(-50, 150)), min_size=3, max_size=8))
def test_polygons_agree_with_pycocotools(corners: list[tuple[int, int]]) -> None:
    flat = [float(value) for corner in corners for value in corner]
    reference = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([flat], 100, 100))).astype(bool)
    mask = fill_polygons([flat], (100, 100))
    clear = edge_distance(np.array(corners, dtype=float), 100) > 1  # at the border conventions differ by half a pixel
    assert np.array_equal(mask & clear, reference & clear)


def edge_distance(corners: np.ndarray, size: int) -> np.ndarray:
    """Distance [size, size] of every pixel's centre to the closed line through ``corners`` [N, 2]."""
    ys, xs = np.mgrid[:size, :size] + 0.5
    start, along = corners[:, None, None], (np.roll(corners, -1, axis=0) - corners)[:, None, None]
    offset = np.stack([xs, ys], axis=-1) - start
    share = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-9)
    return np.linalg.norm(offset - np.clip(share, 0, 1)[..., None] * along, axis=-1).min(axis=0)


def test_polygon_outside_is_clipped_and_huge_coordinates_cost_nothing() -> None:
    mask = fill_polygons(
        [[-20.0, -20.0, 10.0, -20.0, 10.0, 10.0, -20.0, 10.0], [90.0, 90.0, 1e12, 90.0, 90.0, 1e12]], (100, 100)
    )
    expected = np.zeros((100, 100), dtype=bool)
    expected[:10, :10] = expected[90:, 90:] = True
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "polygon", [[1, 1, 2, 2], [1, 1, 2, 2, 3], [1, 1, 5, 1, float("nan"), 5], "polygon", [1, 1, 5, 1, 5, "x"]]
)
def test_malformed_polygons_are_refused(polygon: Any) -> None:
    with pytest.raises(ValueError, match="three points"):
        fill_polygons([polygon], (10, 10))


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [4, 4], "counts": [3, 3]}, "do not add up"),
        ({"size": [4, 4], "counts": [20, -4]}, "do not add up"),
        ({"size": [4, 5], "counts": [20]}, "expected .height, width."),
        ({"size": [4, 4], "counts": "P"}, "middle of a number"),
        ({"size": [4, 4], "counts": "\x01"}, "not part of a compressed run"),
        ({"size": [4, 4], "counts": "o" * 100}, "not part of a compressed run"),
    ],
)
def test_malformed_run_lengths_are_refused(rle: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle(rle, (4, 4))


def test_instances_carry_ids_normalised_names_and_layers(grounder: Callable) -> None:
    content = document()
    content["annotations"].append({**content["annotations"][0], "id": 32, "category_id": 2})
    found = found_in(grounder(content), photo()).instances
    assert [(i.id, i.name, i.layer) for i in found] == [("31", "dining table", "entity"), ("32", "leg", "both")]
    assert int(found[0].mask.sum()) == 32 * 48


def test_a_stated_layer_overrules_the_table(grounder: Callable) -> None:
    content = document(categories=[{"id": 1, "name": "hand", "layer": "entity"}])
    assert found_in(grounder(content), photo()).instances[0].layer == "entity"


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_coordinates_count_in_the_stored_pixels_before_exif_rotation(grounder: Callable, orientation: int) -> None:
    mask = found_in(grounder(document()), photo(orientation)).instances[0].mask
    stored = np.zeros((128, 160), dtype=bool)
    stored[16:64, 16:48] = True
    assert np.array_equal(mask, np.rot90(stored, {3: 2, 6: -1, 8: 1}[orientation]))


def test_sizes_that_fit_only_the_rotated_view_are_read_there(grounder: Callable) -> None:
    content = document(images=[{"id": 7, "file_name": "a.png", "width": 128, "height": 160}])
    mask = found_in(grounder(content), photo(6)).instances[0].mask
    assert np.array_equal(np.argwhere(mask).min(axis=0), [16, 16])
    assert mask.shape == (160, 128)


def test_another_image_size_is_refused(grounder: Callable) -> None:
    with pytest.raises(GroundingError, match="a.png: annotations are for 160x128 px, the file has 200x200 px"):
        found_in(grounder(document()), photo(size=(200, 200)))


def test_crowds_and_instances_outside_are_counted(grounder: Callable) -> None:
    content = document()
    first = content["annotations"][0]
    content["annotations"] += [
        {**first, "id": 32, "iscrowd": 1, "segmentation": {"size": [128, 160], "counts": [128 * 160]}},
        {**first, "id": 33, "segmentation": [[200, 200, 300, 200, 300, 300]]},
    ]
    found = found_in(grounder(content), photo())
    assert [i.id for i in found.instances] == ["31"]
    assert found.dropped == {"crowd": 1, "outside": 1}


def test_caption_and_licence(grounder: Callable) -> None:
    image = {"id": 7, "file_name": "a.png", "caption": "a table", "license": 4}
    found = found_in(grounder(document(images=[image], licenses=[{"id": 4, "name": "CC0"}])), photo())
    assert (found.caption, found.licence) == ("a table", "CC0")
    found = found_in(grounder(document(images=[{**image, "licence": "CC-BY-4.0"}])), photo())
    assert found.licence == "CC-BY-4.0"


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[1, 2]],
        [[1, 2, 3, 4, 5, 10**400]],
        [[1, 2, 3, 4, 5, "x"]],
        {},
        {"size": [128, 160], "counts": [5]},
        {"counts": [5]},
        3,
    ],
)
def test_a_bad_segmentation_concerns_its_image_only(grounder: Callable, segmentation: Any) -> None:
    content = document(annotations=[{"id": 31, "image_id": 7, "category_id": 1, "segmentation": segmentation}])
    with pytest.raises(GroundingError, match="a.png: annotation 31: "):
        found_in(grounder(content), photo())


def test_images_without_annotations(grounder: Callable) -> None:
    backend = grounder(document(annotations=[]))
    assert found_in(backend, photo()).instances == ()
    with pytest.raises(GroundingError, match="b.png: not listed in coco.json"):
        found_in(backend, photo(), "b.png")


def test_an_image_that_cannot_be_grounded_leaves_the_others_alone(grounder: Callable) -> None:
    backend = grounder(document())
    found = backend.ground([photo(), photo(), photo()], ["a.png", "b.png", "a.png"], [None, None, None])
    assert [isinstance(f, GroundingError) for f in found] == [False, True, False]
    assert (backend.name, backend.needs_vocabulary) == ("annotations", False)


def test_names_of_large_vocabularies_become_nouns(grounder: Callable) -> None:
    names = {
        "Mouse_(computer_equipment)": "mouse",
        "Bow (weapon) and arrow": "bow and arrow",
        " Teddy_bear": "teddy bear",
    }
    content = document(
        categories=[{"id": key, "name": name} for key, name in enumerate(names)],
        annotations=[{**document()["annotations"][0], "id": key, "category_id": key} for key in range(len(names))],
    )
    assert [i.name for i in found_in(grounder(content), photo()).instances] == list(names.values())


def test_a_byte_order_mark_is_no_matter(grounder: Callable) -> None:
    assert found_in(grounder(b"\xef\xbb\xbf" + json.dumps(document()).encode()), photo()).instances


IMAGE, NOTE = document()["images"][0], document()["annotations"][0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{not json", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[]", "got a list"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1" * 10_000, "not valid JSON"),
        (document(annotations=[{**NOTE, "score": "high"}]), "annotations.id=31.: score 'high'; expected a number"),
        ({"images": [], "categories": []}, "under 'annotations', found keys .'categories', 'images'."),
        (document(images={}), "under 'images'"),
        (document(images=[IMAGE, IMAGE]), "images: id 7 appears twice"),
        (document(images=[IMAGE, {**IMAGE, "id": 8}]), "images.id=8.: file_name 'a.png' appears twice"),
        (document(images=[{"id": 7}]), r"images\[0\]: 'file_name' is missing"),
        (document(annotations=[NOTE, NOTE]), "annotations: id 31 appears twice"),
        (document(annotations=[{**NOTE, "category_id": 9}]), "annotations.id=31.: unknown category_id 9"),
        (document(annotations=[{**NOTE, "image_id": 9}]), "annotations.id=31.: unknown image_id 9"),
        (document(categories=[{"id": 1, "name": "tail/ear #3"}]), "categories.id=1.: .* lower-case noun"),
        (document(categories=[{"id": 1, "name": "ear", "layer": "outer"}]), "layer 'outer'; expected one of entity"),
    ],
)
def test_unusable_files_are_refused_with_file_and_id(grounder: Callable, content: Any, message: str) -> None:
    with pytest.raises(AnnotationError, match=message) as raised:
        grounder(content)
    assert "coco.json" in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="absent.json: cannot be read"):
        read_annotations(tmp_path / "absent.json")
