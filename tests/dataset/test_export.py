import json
import shutil
from collections import Counter

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image
from pycocotools.coco import COCO

from artiagent.config import InstructionSection
from artiagent.dataset.export import export
from artiagent.dataset.files import ExportError, JsonList, appearing
from artiagent.dataset.sharegpt import unit_space
from artiagent.images import decode
from artiagent.instruction.conversations import build_conversations, split_of
from artiagent.records import FAULT_OF_TOOL, Pair
from artiagent.store import DatasetWriter, read_rows


@pytest.fixture
def rows(curated):
    """The rows that go out, by job id."""
    found = {row.key: row for row in read_rows(curated, Pair) if row.record.scored}
    return {key: row for key, row in found.items() if all(a.reason is None for a in row.record.artifacts)}


def split(source):
    return split_of(source, InstructionSection().val_share, InstructionSection().seed)


def test_coco_reads_back_pixel_for_pixel(curated, rows, tmp_path):
    out = export(curated, "coco", tmp_path / "coco")
    coco = COCO(out / "annotations.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(FAULT_OF_TOOL.values())
    images = coco.loadImgs(coco.getImgIds())
    roles = {role: [i for i in images if i["role"] == role] for role in ("artifact", "clean", "hard negative")}
    faulty = [key for key, row in rows.items() if not row.record.benign]
    assert [i["job_id"] for i in roles["artifact"]] == faulty
    assert len(roles["hard negative"]) == len(rows) - len(faulty) > 0
    assert len(roles["clean"]) == len({rows[key].record.source_id for key in faulty})  # variants share a twin
    for image in images:
        row = rows[image["job_id"]]
        side = "clean" if image["role"] == "clean" else "artifact"
        assert (out / image["file_name"]).read_bytes() == row.images[side]
        found = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(found) == (len(row.record.faults) if image["role"] == "artifact" else 0)
        for annotation, fault in zip(found, row.record.faults, strict=False):
            x, y, width, height = annotation["bbox"]
            assert (x, y, x + width, y + height) == tuple(fault.box)
            assert (coco.annToMask(annotation) == fault.mask.decode()).all()
            assert annotation["area"] == fault.mask.decode().sum()
            assert coco.cats[annotation["category_id"]]["name"] == FAULT_OF_TOOL[fault.injection.tool]
    twins = {image["id"] for image in roles["clean"]}
    assert all(image["twin"] in twins for image in roles["artifact"])
    document = json.loads((out / "annotations.json").read_text())
    names = {entry["id"]: entry["name"] for entry in document["licenses"]}
    assert {names[image["license"]] for image in images} == {"CC0-1.0"}
    assert "annotations.json" in (out / "README.md").read_text()
    assert {p.name for p in out.iterdir()} == {"annotations.json", "images", "README.md"}


def test_a_mask_that_marks_nothing_becomes_the_targets(make, pair, tmp_path):
    from artiagent.records import Mask

    made = pair(0)
    empty = made.artifacts[0].model_copy(update={"mask": Mask.encode(np.zeros((48, 48), dtype=bool))})
    ref = make(tmp_path / "a", [made.model_copy(update={"artifacts": (empty,)})])
    coco = COCO(export(ref, "coco", tmp_path / "coco") / "annotations.json")
    (annotation,) = coco.anns.values()
    x, y, width, height = annotation["bbox"]
    mask = coco.annToMask(annotation).astype(bool)
    assert mask[y : y + height, x : x + width].all() and mask.sum() == width * height == annotation["area"]


def test_parquet_loads_by_folder_and_by_file(curated, rows, tmp_path):
    out = export(curated, "datasets", tmp_path / "pairs")
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    plain = load_dataset(
        "parquet", data_files={"whole": str(out / "data" / "*.parquet")}, cache_dir=str(tmp_path / "other")
    )["whole"]
    counts = Counter(split(row.record.source_id) for row in rows.values())
    assert {name: part.num_rows for name, part in loaded.items()} == {
        "train": counts["train"], "validation": counts["val"],
    }  # fmt: skip
    assert min(counts.values()) > 0
    assert plain.num_rows == len(rows)
    for item in (item for part in loaded.values() for item in part):
        row = rows[item["job_id"]]
        assert (np.asarray(item["artifact"]) == decode(row.images["artifact"])).all()
        assert (np.asarray(item["clean"]) == decode(row.images["clean"])).all()
        assert [tuple(fault["box"]) for fault in item["faults"]] == [tuple(f.box) for f in row.record.faults]
        assert item["faulty"] is not row.record.benign
        assert (item["licence"], item["origin"]) == (row.record.licence, row.record.origin)
        assert item["models"] == ["generator: nano-flux: Apache-2.0"]


def test_large_sets_become_several_groups_and_shards(curated, rows, tmp_path, monkeypatch):
    from artiagent.dataset import parquet

    monkeypatch.setattr(parquet, "GROUP_BYTES", 20_000)  # about two rows
    monkeypatch.setattr(parquet, "SHARD_BYTES", 30_000)
    out = export(curated, "datasets", tmp_path / "pairs")
    assert len(list((out / "data").glob("*.parquet"))) > 2
    loaded = load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert sorted(i for part in loaded.values() for i in part["job_id"]) == sorted(rows)


@pytest.mark.parametrize("form", ["coco", "datasets", "sharegpt"])
def test_a_split_holds_its_sources_only(curated, tmp_path, form):
    def sources(out):
        if form == "coco":
            return {image["source_id"] for image in COCO(out / "annotations.json").imgs.values()}
        if form == "datasets":
            files = {"whole": str(out / "data" / "*.parquet")}
            return set(load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "c"))["whole"]["source_id"])
        return {item["source_id"] for file in out.glob("train.json") for item in json.loads(file.read_text())}

    found = sources(export(curated, form, tmp_path / form, split="train"))
    assert found == {"scenes-s8", "scenes-s9", "scenes-s10"}


def test_sharegpt_from_curated_pairs_carries_licences_and_boxes(curated, rows, tmp_path):
    out = export(curated, "sharegpt", tmp_path / "chat", space="per-mille")
    info = json.loads((out / "dataset_info.json").read_text())
    assert list(info) == ["artiagent_train", "artiagent_val"]
    items = []
    for name, entry in info.items():
        assert name == f"artiagent_{entry['file_name'].removesuffix('.json')}" and entry["formatting"] == "sharegpt"
        items += json.loads((out / entry["file_name"]).read_text())
    faulty = [row.record for row in rows.values() if not row.record.benign]
    assert len(items) == 2 * len(faulty)
    for item in items:
        pair = rows[item["pair_id"]].record
        roles = [message["role"] for message in item["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        text = " ".join(message["content"] for message in item["messages"])
        assert text.startswith("<image>\n") and text.count("<image>") == 1 and "{box:" not in text
        assert (item["licence"], item["origin"]) == (pair.licence, pair.origin)
        with Image.open(out / item["images"][0]) as image:
            assert image.size == (48, 48)
        if item["id"].endswith("artifact"):
            box = [round(v * 1000 / 48) for v in pair.faults[0].box]
            assert str(box).replace(" ", "") in text.replace(" ", "")
    assert "per-mille" in (out / "README.md").read_text()
    assert not [p for p in out.iterdir() if p.name.startswith("tmp")]


def test_sharegpt_from_conversations(curated, tmp_path):
    scenes = DatasetWriter(tmp_path / "scenes", "scenes").finish()
    ref = build_conversations(InstructionSection(), curated, scenes, tmp_path / "conversations")
    out = export(ref, "sharegpt", tmp_path / "chat")
    items = [
        item
        for file in ("train.json", "val.json")
        if (out / file).is_file()
        for item in json.loads((out / file).read_text())
    ]
    assert len(items) == ref.rows
    assert not any("licence" in item for item in items)
    assert ref.digest in (out / "README.md").read_text()
    with pytest.raises(ExportError, match="coco from a set of conversations: expected a curated set"):
        export(ref, "coco", tmp_path / "coco")


def test_units_of_boxes():
    assert unit_space("pixels", 200, 100).to_model((10, 20, 50, 60)) == [10, 20, 50, 60]
    assert unit_space("per-mille", 200, 100).to_model((10, 20, 50, 60)) == [50, 200, 250, 600]
    with pytest.raises(ValueError, match="expected pixels or per-mille"):
        unit_space("inches", 1, 1)


def test_a_target_appears_whole_or_not_at_all(curated, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="not empty; choose another folder"):
        export(curated, "coco", out)
    (out / "mine.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(JsonList, "add", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            export(curated, "coco", out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"] and not any(out.iterdir())
    assert export(curated, "coco", out) == out  # an empty folder is taken
    shutil.rmtree(out)
    out.write_text("a file")
    with pytest.raises(ExportError), appearing(out):
        pytest.fail("went on over a file")
