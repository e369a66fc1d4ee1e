from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import InputSet
from artiagent.perception.grounding import GroundingError
from artiagent.perception.grounding.coco import AnnotationError
from artiagent.perception.linking import link
from artiagent.perception.sources import (
    SourceError,
    image_names,
    input_digest,
    iter_images,
    known_grounder,
    left_out,
)
from artiagent.perception.vocabulary import template

PERSON, DOG, LIGHT = 1, 2, 3


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((32, 40), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def crowded(coco_tree: Callable):
    """train: a person, two persons, a dog, nothing. val: a person beside a crowd, a crowd alone."""
    tree = coco_tree(train2017=["1.jpg", "2.jpg", "3.jpg", "4.jpg"], val2017=["1.jpg", "5.jpg"])
    tree.add("train2017", 0, PERSON, (0, 0, 8, 24))
    tree.add("train2017", 1, PERSON, (0, 0, 8, 24))
    tree.add("train2017", 1, PERSON, (16, 0, 24, 24))
    tree.add("train2017", 2, DOG, (4, 4, 30, 30))
    tree.add("val2017", 0, PERSON, (0, 0, 8, 24))
    for image in (0, 1):
        whole = {"size": [32, 40], "counts": [0, 32 * 40]}
        tree.add("val2017", image, PERSON, (0, 0, 1, 1), iscrowd=1, segmentation=whole)
    tree.save()
    return tree


def test_splits_are_read_below_the_root_and_equal_names_stay_apart(crowded, look: Callable) -> None:
    assert image_names(crowded.source) == (
        "train2017/1.jpg", "train2017/2.jpg", "train2017/3.jpg", "train2017/4.jpg", "val2017/1.jpg", "val2017/5.jpg",
    )  # fmt: skip
    assert left_out(crowded.source) == {}
    contents = {image.name: image.read() for image in iter_images(crowded.source)}
    assert contents["train2017/1.jpg"] != contents["val2017/1.jpg"]
    assert look(crowded.source, "train2017/1.jpg").dropped == {}
    assert look(crowded.source, "val2017/1.jpg").dropped == {"crowd": 1}


@pytest.mark.parametrize(
    ("filters", "used"),
    [
        ({"categories": ("person",)}, {"train2017/1.jpg", "train2017/2.jpg", "val2017/1.jpg"}),
        ({"categories": ("Person", "DOG")}, {f"train2017/{k}.jpg" for k in (1, 2, 3)} | {"val2017/1.jpg"}),
        ({"categories": ("person",), "instances": (1, 1)}, {"train2017/1.jpg", "val2017/1.jpg"}),
        ({"instances": (2, 9)}, {"train2017/2.jpg"}),
        ({"instances": (0, 0)}, {"train2017/4.jpg", "val2017/5.jpg"}),
    ],
)
def test_filters_count_instances_of_the_categories_without_crowds(
    crowded, partition: Callable, filters: dict, used: set
) -> None:
    source = crowded.source.model_copy(update=filters)
    names, codes = partition(source)
    assert names == used
    assert set(codes.values()) <= {"filtered_category", "filtered_instances"}
    assert names | set(codes) == set(image_names(crowded.source))


def test_reasons_say_what_the_filter_saw(crowded) -> None:
    reasons = left_out(crowded.source.model_copy(update={"categories": ("person",), "instances": (2, 3)}))
    assert reasons["train2017/1.jpg"] == "filtered_instances: shows 1, expected 2 to 3"
    assert reasons["train2017/3.jpg"] == "filtered_category: shows none of person"


def test_what_the_filters_exclude_is_not_grounded(crowded, look: Callable) -> None:
    source = crowded.source.model_copy(update={"categories": ("dog",)})
    with pytest.raises(GroundingError, match="train2017/1.jpg: not listed in instances_train2017.json, instances_val"):
        look(source, "train2017/1.jpg")
    assert [i.name for i in look(source, "train2017/3.jpg").instances] == ["dog"]


def test_filters_that_fit_nothing_name_what_there_is(crowded) -> None:
    for filters, message in (
        (
            {"categories": ("persn",)},
            r"'set': categories: unknown 'persn'; did you mean 'person'\? .known here: dog",
        ),
        (
            {"categories": ("traffic_light",)},
            r"is left .filtered_category 6; .*categories in the set: dog",
        ),
        ({"instances": (3, 1)}, r"instances \[3, 1\]: expected \[least, most\]"),
        ({"categories": ("dog",), "instances": (2, 4)}, r"'categories': \('dog',\), 'instances': \(2, 4\)"),
    ):
        with pytest.raises(SourceError, match=message):
            image_names(crowded.source.model_copy(update=filters))


def test_every_image_and_entry_has_one_place(coco_tree: Callable, write: Callable, partition: Callable) -> None:
    tree = coco_tree(train2017=["a.jpg", "b.JPG"])
    write("train2017/unlisted.jpg", "test2017/t.jpg", "stray.png", "train2017/._a.jpg")
    images = tree.documents["train2017"]["images"]
    images[1]["file_name"] = "b.jpg"  # the file is b.JPG
    for name in ("gone.jpg", "../../secret.jpg", "/etc/passwd.jpg"):
        images.append({"id": len(images), "file_name": name})
    tree.save()
    (tree.root.parent / "secret.jpg").write_bytes(b"secret")
    names, codes = partition(tree.source)
    assert names == {"train2017/a.jpg", "train2017/b.JPG"}
    assert codes == {
        "train2017/unlisted.jpg": "not_annotated", "test2017/t.jpg": "not_annotated", "stray.png": "not_annotated",
        "train2017/._a.jpg": "hidden", "train2017/gone.jpg": "missing_file",
        "train2017/../../secret.jpg": "bad_entry", "train2017//etc/passwd.jpg": "bad_entry",
    }  # fmt: skip


def test_extensions_of_another_case_are_the_same_file_unless_both_are_there(
    coco_tree: Callable, look: Callable, partition: Callable
) -> None:
    tree = coco_tree(train2017=["a.jpg", "a.JPG", "b.jpg"])
    tree.add("train2017", 1, DOG, (0, 0, 8, 8))
    tree.documents["train2017"]["images"][2]["file_name"] = "b.JPEG"
    tree.save()
    names, codes = partition(tree.source)
    assert names == {"train2017/a.jpg", "train2017/a.JPG"}
    assert codes == {"train2017/b.jpg": "not_annotated", "train2017/b.JPEG": "missing_file"}
    assert look(tree.source, "train2017/a.jpg").instances == ()
    assert [i.name for i in look(tree.source, "train2017/a.JPG").instances] == ["dog"]


def test_splits_without_images_are_not_read(coco_tree: Callable, partition: Callable) -> None:
    tree = coco_tree(train2017=["a.jpg"])
    (tree.root / "annotations" / "instances_val2017.json").write_text("{never parsed")
    assert partition(tree.source) == ({"train2017/a.jpg"}, {"val2017": "missing_file"})
    (tree.root / "train2017" / "a.jpg").unlink()
    (tree.root / "train2017").rmdir()
    with pytest.raises(SourceError, match="instances_<split>.json beside a folder <split> of images, found train2017"):
        image_names(tree.source)


def test_the_folder_of_images_with_a_file_given(crowded, look: Callable) -> None:
    source = InputSet(
        name="set", layout="coco", images=str(crowded.root / "train2017"),
        annotations=str(crowded.root / "annotations" / "instances_train2017.json"),
    )  # fmt: skip
    captions = {
        "images": [{"id": 9, "file_name": "2.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "caption": "two"}],
    }
    (crowded.root / "annotations" / "captions_train2017.json").write_text(json.dumps(captions))
    assert image_names(source) == ("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    assert [i.name for i in look(source, "2.jpg").instances] == ["person", "person"]
    assert look(source, "2.jpg").caption == "two"


def test_first_caption_and_licence_of_an_image(crowded, look: Callable) -> None:
    captions = {
        "images": [{"id": 70, "file_name": "1.jpg"}, {"id": 71, "file_name": "2.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 71, "caption": " "},
            {"id": 2, "image_id": 70, "caption": "A person\n stands."},
            {"id": 3, "image_id": 70, "caption": "Somebody else wrote this."},
        ],
    }
    path = crowded.root / "annotations" / "captions_train2017.json"
    path.write_text(json.dumps(captions))
    crowded.documents["train2017"]["images"][1]["license"] = 99
    crowded.save()
    first, second = (look(crowded.source, f"train2017/{k}.jpg") for k in (1, 2))
    assert (first.caption, first.licence) == ("A person stands.", "Attribution License")
    assert (second.caption, second.licence) == ("", "unknown")
    captions["annotations"][1]["image_id"] = 5
    path.write_text(json.dumps(captions))
    with pytest.raises(AnnotationError, match="captions_train2017.json: annotations.id=2.: unknown image_id 5"):
        image_names(crowded.source)


def part_file(root: Path, **changes: object) -> Path:
    """Heads on train2017/2.jpg, ids and category ids the same as those of the instances."""
    content = {
        "images": [{"id": 0, "file_name": "train2017/2.jpg"}],
        "categories": [
            {"id": 1, "name": "person:head"}, {"id": 2, "name": "person:tail", "layer": "intermediate"},
            {"id": 3, "name": "trash_(can):rim"},
        ],
        "annotations": [
            {"id": key, "image_id": 0, "category_id": category, "segmentation": [[x, 0, x + 8, 0, x + 8, 8, x, 8]]}
            for key, category, x in ((1, 1, 0), (2, 1, 16), (3, 3, 0))
        ],
        **changes,
    }  # fmt: skip
    path = root.parent / "parts.json"
    path.write_text(json.dumps(content))
    return path


def test_parts_of_another_file_are_joined_and_linked(crowded, look: Callable, take: Callable) -> None:
    from artiagent.config import PerceptionSection

    source = crowded.source.model_copy(update={"parts": str(part_file(crowded.root))})
    found = look(source, "train2017/2.jpg")
    assert [(i.id, i.name, i.layer) for i in found.instances] == [
        ("1", "person", "entity"), ("2", "person", "entity"),
        ("part-1", "head", "intermediate"), ("part-2", "head", "intermediate"),
    ]  # fmt: skip
    assert found.dropped == {"not_a_part": 1}
    assert np.array_equal(found.instances[3].mask, box(16, 0, 24, 8))
    section = PerceptionSection(patch=4, short_side=32, min_pixels=64)
    entities, dropped = link(found.instances, template(found.instances, section.containment), section)
    assert [(e.id, [p.id for p in e.parts]) for e in entities] == [("1", ["part-1"]), ("2", ["part-2"])]
    assert not dropped
    assert [i.id for i in look(source, "train2017/1.jpg").instances] == ["0"]


def test_parts_may_leave_the_folder_away_where_it_is_clear(crowded, look: Callable) -> None:
    for name, there in (("2.jpg", True), ("images/2.jpg", True), ("3.jpg", False)):
        path = part_file(crowded.root, images=[{"id": 0, "file_name": name}])
        source = crowded.source.model_copy(update={"parts": str(path)})
        assert (len(look(source, "train2017/2.jpg").instances) == 4) is there
    path = part_file(crowded.root, images=[{"id": 0, "file_name": "1.jpg"}])
    with pytest.raises(AnnotationError, match="may be 'train2017/1.jpg' or 'val2017/1.jpg'"):
        known_grounder(crowded.source.model_copy(update={"parts": str(path)}))


def test_parts_are_drawn_in_the_frame_that_their_file_states(crowded, look: Callable) -> None:
    path = part_file(crowded.root, images=[{"id": 0, "file_name": "2.jpg", "width": 80, "height": 64}])
    source = crowded.source.model_copy(update={"parts": str(path)})
    with pytest.raises(GroundingError, match="annotations are for 80x64 px, the file has 40x32 px"):
        look(source, "train2017/2.jpg")
    assert look(source, "train2017/1.jpg").instances


def test_unusable_parts_are_refused(crowded) -> None:
    for changes, message in (
        (
            {"images": [{"id": 0, "file_name": "x.jpg"}]},
            "annotates none of the set's images .file names there: x.jpg",
        ),
        (
            {"categories": [{"id": k, "name": "rim"} for k in (1, 2, 3)]},
            "none of its categories is a part",
        ),
    ):
        source = crowded.source.model_copy(update={"parts": str(part_file(crowded.root, **changes))})
        with pytest.raises(AnnotationError, match=message):
            image_names(source)
    with pytest.raises(SourceError, match="gone.json: no such part annotation file; expected COCO JSON"):
        image_names(crowded.source.model_copy(update={"parts": "gone.json"}))


def test_parts_of_images_that_are_not_there_are_left_out(crowded, partition: Callable) -> None:
    images = [{"id": 0, "file_name": "train2017/2.jpg"}, {"id": 1, "file_name": "gone.jpg"}]
    path = part_file(crowded.root, images=images)
    names, codes = partition(crowded.source.model_copy(update={"parts": str(path)}))
    assert (len(names), codes) == (6, {"gone.jpg": "missing_file"})


def test_digest_follows_filters_and_every_annotation_file(crowded, tmp_path: Path) -> None:
    digests = [input_digest(crowded.source)]
    moved = crowded.source.model_copy(update={"images": str(crowded.root.rename(tmp_path / "moved"))})
    assert input_digest(moved) == digests[0]
    for update in ({"categories": ("person",)}, {"instances": (0, 5)}, {"licence": "CC0"}, {"limit": 2}):
        digests.append(input_digest(moved.model_copy(update=update)))
    captions = tmp_path / "moved" / "annotations" / "captions_val2017.json"
    captions.write_text('{"images": [], "annotations": []}')
    digests.append(input_digest(moved))
    parts = part_file(tmp_path / "moved")
    digests.append(input_digest(moved.model_copy(update={"parts": str(parts)})))
    crowded.documents["val2017"]["licenses"] = []
    crowded.root = tmp_path / "moved"
    crowded.save()
    digests.append(input_digest(moved))
    assert len(set(digests)) == len(digests)


def test_an_edited_file_is_read_again(crowded) -> None:
    assert len(image_names(crowded.source.model_copy(update={"categories": ("dog",)}))) == 1
    path = crowded.root / "annotations" / "instances_train2017.json"
    path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 2'))  # as long as before
    assert len(image_names(crowded.source.model_copy(update={"categories": ("dog",)}))) == 3


def test_links_of_splits_and_annotations_are_refused(crowded, tmp_path: Path) -> None:
    outside = (crowded.root / "train2017").rename(tmp_path / "elsewhere")
    (crowded.root / "train2017").symlink_to(outside)
    reasons = left_out(crowded.source)
    assert reasons["train2017"].startswith("outside: ")
    assert reasons["train2017/1.jpg"].startswith("missing_file: ")
    annotations = (crowded.root / "annotations").rename(tmp_path / "notes")
    (crowded.root / "annotations").symlink_to(annotations)
    with pytest.raises(SourceError, match="expected COCO as published"):
        image_names(crowded.source)
