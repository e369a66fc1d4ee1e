from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from artiagent.config import InputSet
from artiagent.licences import LAYOUT_LICENCES
from artiagent.perception.grounding.coco import AnnotationError
from artiagent.perception.sources import (
    SourceError,
    image_names,
    input_digest,
    iter_images,
    known_grounder,
    left_out,
    licence_of,
    locate_annotations,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "deep/c.webp", "notes.txt"):
        (root / name).write_bytes(name.encode())
    return root


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., InputSet]:
    def make(**columns: list | pa.Array) -> InputSet:
        path = tmp_path / "images.parquet"
        pq.write_table(pa.table(columns), path)
        return InputSet(name="set", images=str(path))

    return make


def contents(source: InputSet) -> list[tuple[str, bytes]]:
    return [(image.name, image.read()) for image in iter_images(source)]


def test_folder_is_read_recursively_in_sorted_order(folder: Path) -> None:
    source = InputSet(name="set", images=str(folder))
    assert contents(source) == [("a.jpg", b"a.jpg"), ("b.PNG", b"b.PNG"), ("deep/c.webp", b"deep/c.webp")]
    assert image_names(source.model_copy(update={"limit": 2})) == ("a.jpg", "b.PNG")


def test_parquet_streams_rows_in_order(parquet: Callable) -> None:
    expected = [(f"{k}.png", bytes([k])) for k in range(40)]
    source = parquet(file_name=[n for n, _ in expected], image=[d for _, d in expected])
    assert contents(source) == expected
    assert contents(source.model_copy(update={"limit": 17})) == expected[:17]


def test_missing_bytes_are_an_empty_file(parquet: Callable) -> None:
    assert contents(parquet(file_name=["a"], image=pa.array([None], pa.binary()))) == [("a", b"")]


def test_unreadable_file_fails_when_it_is_read(folder: Path) -> None:
    (folder / "a.jpg").unlink()
    (folder / "a.jpg").symlink_to(folder / "gone.jpg")
    first = next(iter_images(InputSet(name="set", images=str(folder))))
    with pytest.raises(FileNotFoundError):
        first.read()


def test_relative_places_count_from_the_current_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert len(image_names(InputSet(name="set", images="images"))) == 3


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"file_name": ["a"]}, r"expected columns file_name \(string\) and image"),
        ({"file_name": ["a"], "image": ["text"]}, r"got {'file_name': 'string', 'image': 'string'}"),
        ({"file_name": ["a", "a"], "image": [b"1", b"2"]}, "file_name 'a' is repeated"),
        ({"file_name": pa.array([], pa.string()), "image": pa.array([], pa.binary())}, "no rows in"),
    ],
)
def test_unusable_parquet_is_refused(parquet: Callable, columns: dict, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        image_names(parquet(**columns))


def test_unusable_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.parquet").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    for place, message in (("photo.parquet", "not a Parquet"), ("empty", "no image files"), ("gone", "no such file")):
        with pytest.raises(SourceError, match=f"input set 'mine': .*{message}"):
            image_names(InputSet(name="mine", images=str(tmp_path / place)))
    with pytest.raises(SourceError, match="no annotations given"):
        locate_annotations(InputSet(name="mine", images="x"))
    with pytest.raises(SourceError, match="no such annotation file"):
        locate_annotations(InputSet(name="mine", images="x", annotations=str(tmp_path / "gone.json")))


def test_digest_sees_names_bytes_and_annotations_but_not_places(folder: Path, tmp_path: Path) -> None:
    notes = tmp_path / "coco.json"
    notes.write_text("{}")
    source = InputSet(name="set", images=str(folder), annotations=str(notes))
    digests = [input_digest(source)]
    (folder / "notes.txt").write_text("not an image")
    moved = folder.rename(tmp_path / "moved")
    source = source.model_copy(update={"images": str(moved)})
    assert input_digest(source) == digests[0]

    (moved / "a.jpg").write_bytes(b"other")
    digests.append(input_digest(source))
    (moved / "a.jpg").rename(moved / "a2.jpg")
    digests.append(input_digest(source))
    notes.write_text("{} ")
    digests.append(input_digest(source))
    digests.append(input_digest(source.model_copy(update={"limit": 1})))
    digests.append(input_digest(source.model_copy(update={"scored": False})))
    assert len(set(digests)) == len(digests)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Dogs: one in a.jpg, two in deep/c.webp, one in an image that is not there, one in an entry that climbs."""
    names = ["a.jpg", "deep/c.webp", "gone.jpg", "../up.jpg"]
    document = {
        "images": [{"id": key, "file_name": name} for key, name in enumerate(names)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "ear"}],
        "annotations": [
            {"id": key, "image_id": image, "category_id": category}
            for key, (image, category) in enumerate([(0, 1), (0, 2), (1, 1), (1, 1), (2, 1), (3, 1)])
        ],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(params=["folder", "parquet"])
def annotated(request: pytest.FixtureRequest, folder: Path, parquet: Callable, notes: Path) -> InputSet:
    source = InputSet(name="set", images=str(folder))
    if request.param == "parquet":
        read = dict(contents(source))
        source = parquet(file_name=list(read), image=list(read.values()))
    return source.model_copy(update={"annotations": str(notes)})


def test_images_stay_where_no_filter_asks_and_entries_without_image_are_named(annotated: InputSet) -> None:
    assert image_names(annotated) == ("a.jpg", "b.PNG", "deep/c.webp")
    assert left_out(annotated) == {
        "../up.jpg": "bad_entry: leads outside of the set",
        "gone.jpg": "missing_file: annotated, but there is no such image",
    }
    assert {image.subject for image in iter_images(annotated)} == {""}


def test_filters_count_what_the_annotations_show(annotated: InputSet) -> None:
    dogs = annotated.model_copy(update={"categories": ("dog",)})
    assert contents(dogs) == [("a.jpg", b"a.jpg"), ("deep/c.webp", b"deep/c.webp")]
    assert left_out(dogs)["b.PNG"] == "not_annotated: no annotation file lists it"
    pairs = dogs.model_copy(update={"instances": (2, 2)})
    assert contents(pairs) == [("deep/c.webp", b"deep/c.webp")]
    assert left_out(pairs)["a.jpg"] == "filtered_instances: shows 1, expected 2 to 2"
    assert input_digest(pairs) != input_digest(dogs) != input_digest(annotated)
    with pytest.raises(SourceError, match="unknown 'ear'; did you mean 'dog'"):  # a part is no category of images
        image_names(annotated.model_copy(update={"categories": ("ear",)}))


def test_filters_and_parts_need_annotations(folder: Path, notes: Path) -> None:
    source = InputSet(name="set", images=str(folder))
    assert known_grounder(source) is None
    assert left_out(source) == {}
    for update in ({"categories": ("dog",)}, {"instances": (1, 2)}, {"parts": str(notes)}):
        with pytest.raises(SourceError, match="'parts', 'categories' and 'instances' need 'annotations'"):
            image_names(source.model_copy(update=update))


def test_names_do_not_wait_for_annotations(annotated: InputSet, notes: Path) -> None:
    notes.write_text("{")
    assert len(image_names(annotated)) == 3
    assert input_digest(annotated)
    for ask in (left_out, known_grounder):
        with pytest.raises(AnnotationError, match="coco.json: not valid JSON"):
            ask(annotated)


def test_with_a_limit_nothing_behind_the_last_image_is_named(annotated: InputSet) -> None:
    few = annotated.model_copy(update={"limit": 1})
    assert image_names(few) == ("a.jpg",)
    assert set(left_out(few)) == {"../up.jpg"}


def test_reading_is_lazy(folder: Path) -> None:
    stream = iter_images(InputSet(name="set", images=str(folder)))
    first = next(stream)
    (folder / "a.jpg").write_bytes(b"written after the set was listed")
    (folder / "b.PNG").unlink()
    assert first.read() == b"written after the set was listed"
    second = next(stream)  # nothing has been opened yet
    with pytest.raises(FileNotFoundError):
        second.read()


def test_hidden_files_are_left_out_and_do_not_enter_the_digest(folder: Path) -> None:
    source = InputSet(name="set", images=str(folder))
    before = input_digest(source)
    (folder / "._a.jpg").write_bytes(b"resource fork")
    assert input_digest(source) == before
    assert list(left_out(source)) == ["._a.jpg"]


def test_digests_of_sets_without_filters_are_what_they_were(folder: Path) -> None:
    source = InputSet(name="set", images=str(folder))
    assert input_digest(source) == "ac0882f68174734ef93014a725d391fe2d2099ee43e5b5f90e049d767070f085"
    assert input_digest(source.model_copy(update={"licence": "CC0"})) != input_digest(source)


def test_the_set_s_own_licence_goes_before_the_layout_s() -> None:
    source = InputSet(name="set", images="x")
    assert licence_of(source.model_copy(update={"licence": "CC-BY-4.0"})) == "CC-BY-4.0"
    assert licence_of(source) == "unknown"
    published = {layout: licence_of(source.model_copy(update={"layout": layout})) for layout in LAYOUT_LICENCES}
    assert published == LAYOUT_LICENCES
    assert set(published) == {"coco", "caltech101", "hands11k", "celeba_hq"}


def test_published_layouts_need_a_folder(parquet: Callable) -> None:
    source = parquet(file_name=["a"], image=[b"x"])
    for layout in ("coco", "caltech101", "hands11k", "celeba_hq"):
        with pytest.raises(SourceError, match=f"layout '{layout}' needs a folder, got a file"):
            image_names(source.model_copy(update={"layout": layout}))


def test_examples_of_the_docs_are_input_sets() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("    - {name: ")]
    examples = [InputSet.model_validate(entry) for entry in yaml.safe_load("\n".join(lines))]
    assert {example.layout for example in examples} == {"folder", "coco", "caltech101", "hands11k", "celeba_hq"}
