from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.grounding import GroundingError
from artiagent.perception.sources import SourceError, image_names, input_digest, iter_images, known_grounder, left_out
from artiagent.perception.sources.caltech101 import contour, entity_noun

IMAGES, NOTES = "101_ObjectCategories", "Annotations"
DOLPHIN = f"{IMAGES}/dolphin/image_0001.jpg"


def mat(path: Path, box: object = ((5, 20, 11, 30),), outline: object = None, **options: object) -> None:
    """An outline of x 1..13 and y 2..6 from the box's corner (y0 5, x0 11), unless given."""
    if outline is None:
        outline = np.array([[1.0, 13.0, 13.0, 1.0], [2.0, 2.0, 6.0, 6.0]])
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"box_coord": np.array(box), "obj_contour": outline}, **options)


@pytest.fixture
def tree(write: Callable) -> Path:
    root = write(
        DOLPHIN, f"{IMAGES}/dolphin/image_0002.JPG", f"{IMAGES}/airplanes/image_0001.jpg",
        f"{IMAGES}/Faces/image_0001.jpg", f"{IMAGES}/Faces_easy/image_0001.jpg", f"{IMAGES}/Motorbikes/image_0001.jpg",
        f"{IMAGES}/BACKGROUND_Google/image_0001.jpg",
    )  # fmt: skip
    for folder in ("dolphin", "Airplanes_Side_2", "Faces_2", "Faces_3", "Motorbikes_16"):
        mat(root / NOTES / folder / "annotation_0001.mat")
    return root


@pytest.fixture
def source(tree: Path) -> InputSet:
    return InputSet(name="set", layout="caltech101", images=str(tree))


@pytest.mark.parametrize("options", [{}, {"do_compression": True}])
@pytest.mark.parametrize("kind", [float, np.uint8, np.int16])
def test_outlines_count_from_the_box_in_one_based_pixel_centres(
    tree: Path, source: InputSet, look: Callable, options: dict, kind: type
) -> None:
    outline = np.array([[1, 13, 13, 1], [2, 2, 6, 6]], dtype=kind)
    mat(tree / NOTES / "dolphin" / "annotation_0001.mat", np.array([[5, 20, 11, 30]], dtype=kind), outline, **options)
    (found,) = look(source, DOLPHIN).instances
    expected = np.zeros((32, 40), dtype=bool)
    # corners in MATLAB: x 12..24, y 7..11, centres of pixels; counted from zero 11..23 and 6..10
    expected[6:11, 11:24] = True
    border = np.zeros_like(expected)
    border[6:11, 11:24] = True
    border[7:10, 12:23] = False
    assert np.array_equal(found.mask & ~border, expected & ~border)
    assert not (found.mask & ~expected).any()
    assert (found.name, found.layer) == ("dolphin", "entity")
    points = contour((tree / NOTES / "dolphin" / "annotation_0001.mat").read_bytes())
    assert points.tolist() == [[11.5, 6.5], [23.5, 6.5], [23.5, 10.5], [11.5, 10.5]]


def test_outlines_follow_the_image_through_intake(tree: Path, source: InputSet, look: Callable) -> None:
    small = look(source, DOLPHIN).instances[0].mask
    large = look(source, DOLPHIN, PerceptionSection(patch=8, short_side=64, min_pixels=64)).instances[0].mask
    assert large.shape == (64, 80)
    assert np.array_equal(large, small.repeat(2, axis=0).repeat(2, axis=1))


def test_outlines_wholly_outside_are_dropped(tree: Path, source: InputSet, look: Callable) -> None:
    mat(tree / NOTES / "dolphin" / "annotation_0001.mat", ((500, 520, 500, 520),))
    found = look(source, DOLPHIN)
    assert (found.instances, found.dropped) == ((), {"outside": 1})


def test_folders_of_annotations_that_are_called_otherwise(source: InputSet, look: Callable) -> None:
    names = ("airplanes", "Faces", "Faces_easy", "Motorbikes")
    found = {name: look(source, f"{IMAGES}/{name}/image_0001.jpg").instances[0].name for name in names}
    assert found == {"airplanes": "airplane", "Faces": "face", "Faces_easy": "face", "Motorbikes": "motorbike"}
    assert left_out(source) == {
        f"{IMAGES}/BACKGROUND_Google/image_0001.jpg": "background: BACKGROUND_Google shows no object of its own"
    }


def test_every_image_says_its_subject(source: InputSet) -> None:
    assert {image.name: image.subject for image in iter_images(source)} == {
        DOLPHIN: "dolphin", f"{IMAGES}/dolphin/image_0002.JPG": "dolphin",
        f"{IMAGES}/airplanes/image_0001.jpg": "airplane", f"{IMAGES}/Motorbikes/image_0001.jpg": "motorbike",
        f"{IMAGES}/Faces/image_0001.jpg": "face", f"{IMAGES}/Faces_easy/image_0001.jpg": "face",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("category", "noun"),
    [
        ("Leopards", "leopard"), ("cougar_body", "cougar"), ("cougar_face", "cougar face"), ("car_side", "car"),
        ("water_lilly", "water lily"), ("crocodile_head", "crocodile head"), ("dolphin", "dolphin"),
        ("scissors", "scissors"), ("electric_guitar", "electric guitar"), ("class2", ""), ("Motorbikes", "motorbike"),
    ],
)  # fmt: skip
def test_nouns_of_categories(category: str, noun: str) -> None:
    assert entity_noun(category) == noun


def test_images_without_an_outline_are_errors_of_their_own(source: InputSet, look: Callable) -> None:
    with pytest.raises(GroundingError, match="image_0002.JPG: no annotation_<number>.mat for it below Annotations"):
        look(source, f"{IMAGES}/dolphin/image_0002.JPG")


def test_every_image_and_outline_has_one_place(
    tree: Path, write: Callable, source: InputSet, partition: Callable
) -> None:
    write(f"{IMAGES}/dolphin/cover.jpg", "show.png", f"{IMAGES}/class2/image_0001.jpg", f"{IMAGES}/image_0001.jpg")
    mat(tree / NOTES / "Motorbikes_16" / "annotation_0798.mat")
    names, codes = partition(source)
    assert len(names) == 6
    assert codes == {
        f"{IMAGES}/BACKGROUND_Google/image_0001.jpg": "background", f"{IMAGES}/dolphin/cover.jpg": "not_in_layout",
        "show.png": "not_in_layout", f"{IMAGES}/image_0001.jpg": "not_in_layout",
        f"{IMAGES}/class2/image_0001.jpg": "bad_entry", f"{IMAGES}/Motorbikes/image_0798.jpg": "missing_file",
    }  # fmt: skip


def test_filters_take_nouns_and_published_names(source: InputSet) -> None:
    def used(*categories: str, **more: object) -> int:
        return len(image_names(source.model_copy(update={"categories": categories, **more})))

    assert [used("dolphin"), used("face"), used("Faces_easy"), used("airplanes", "motorbike")] == [2, 2, 1, 2]
    assert used(instances=(1, 1)) == 6
    reasons = left_out(source.model_copy(update={"categories": ("face",)}))
    assert reasons[DOLPHIN] == "filtered_category: shows none of face"
    for update, message in (
        ({"categories": ("dolfin",)}, "unknown 'dolfin'; did you mean 'dolphin'"),
        ({"instances": (2, 3)}, "is left .filtered_instances 6, background 1"),
        ({"annotations": "x.json"}, "layout 'caltech101' does not read 'annotations'"),
    ):
        with pytest.raises(SourceError, match=message):
            image_names(source.model_copy(update=update))


def test_the_archive_s_own_folder_may_stand_between(tree: Path, tmp_path: Path, source: InputSet) -> None:
    expected = input_digest(source)
    (tmp_path / "outer").mkdir()
    tree.rename(tmp_path / "outer" / "caltech-101")
    assert input_digest(source.model_copy(update={"images": str(tmp_path / "outer")})) == expected
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no folder 101_ObjectCategories; expected Caltech-101 as .*extract"):
        image_names(source.model_copy(update={"images": str(tmp_path / "empty")}))


def test_digest_follows_the_outlines_of_the_images_used(tree: Path, source: InputSet) -> None:
    first = input_digest(source)
    dolphins = source.model_copy(update={"categories": ("dolphin",)})
    before = input_digest(dolphins)
    mat(tree / NOTES / "Faces_2" / "annotation_0001.mat", ((1, 2, 3, 4),))
    assert input_digest(source) != first
    assert input_digest(dolphins) == before


def test_without_annotations_nothing_is_known(tree: Path, source: InputSet, tmp_path: Path) -> None:
    outside = (tree / NOTES).rename(tmp_path / "elsewhere")
    assert known_grounder(source) is None
    (tree / NOTES).symlink_to(outside)
    assert known_grounder(source) is None


MATLAB_4 = b"\0\0\0\0\2\0\0\0\2\0\0\0\0\0\0\0\2\0\0\0x\0" + b"\0" * 32


@pytest.mark.parametrize("data", [b"", b"MATLAB 7.3 MAT-file, HDF5", MATLAB_4, b"MATLAB 5.0 MAT-file" + b"\0" * 99])
def test_files_of_another_kind_concern_their_image_only(
    tree: Path, source: InputSet, take: Callable, data: bytes
) -> None:
    (tree / NOTES / "dolphin" / "annotation_0001.mat").write_bytes(data)
    other = f"{IMAGES}/Faces/image_0001.jpg"
    images = [take(source, name) for name in (DOLPHIN, other)]
    error, found = known_grounder(source).ground(images, [DOLPHIN, other], [None, None])
    assert str(error).startswith(f"{DOLPHIN}: Annotations/dolphin/annotation_0001.mat: expected a MATLAB 5 file")
    assert found.instances


@pytest.mark.parametrize(
    ("box", "outline", "message"),
    [
        ([[1, 2, 3]], None, r"box_coord \(1, 3\)"),
        ([[1, 2, np.nan, 4]], None, "expected finite numbers"),
        ([[1, 2, 3, 4]], np.ones((2, 2)), r"obj_contour \(2, 2\); expected 4 numbers"),
        ([[1, 2, 3, 4]], np.ones((5, 2)), r"obj_contour \(5, 2\)"),
        ([[1, 2, 3, 4]], np.full((2, 4), np.inf), "finite numbers"),
        (["abcd"], None, "no matrix box_coord, found .'obj_contour'."),
        ([[1, 2, 3, 4]], np.ones((2, 40_000)), "bytes, expected an outline of at most 262144"),
    ],
)
def test_other_contents_are_refused(
    tree: Path, source: InputSet, look: Callable, box: list, outline: np.ndarray, message: str
) -> None:
    mat(tree / NOTES / "dolphin" / "annotation_0001.mat", box, outline)
    with pytest.raises(GroundingError, match=message):
        look(source, DOLPHIN)
