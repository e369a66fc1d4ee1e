from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import PerceptionSection
from artiagent.grid import containment, mask_box
from artiagent.images import decode
from artiagent.perception import stage
from artiagent.perception.perceiver import describe
from artiagent.perception.sources import SourceError
from artiagent.perception.stage import PerceptionError, perceive
from artiagent.records import Scene
from artiagent.store import read_rows

SECTION = PerceptionSection()
ONE_BY_ONE = PerceptionSection(window=1)  # a killed run repeats a window at most


def test_rendered_scenes_come_through_whole(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(6)
    ref = perceive(SECTION, [folder.source], tmp_path / "out")
    rows = {row.record.origin: row for row in read_rows(ref, Scene)}
    assert ref.kind == "scenes"
    assert ref.rows == len(rows) == ref.summary["images"] == 6
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()) == {}
    for entry in folder.document["images"]:
        row = rows[entry["file_name"]]
        scene = row.record
        assert row.key == scene.source_id
        assert scene.caption == entry["caption"]
        original = (folder.images / entry["file_name"]).read_bytes()
        assert np.array_equal(decode(row.images["image"]), decode(original))
        annotated = [a for a in folder.document["annotations"] if a["image_id"] == entry["id"]]
        shown = len(scene.entities) + sum(len(e.parts) for e in scene.entities)
        assert len(annotated) == shown + sum(scene.dropped.values())
        for part, entity in ((p, e) for e in scene.entities for p in e.parts):
            assert containment(part.mask, entity.mask) == 1.0
            assert part.box == mask_box(part.mask.decode())


def test_two_people_keep_their_own_hands(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(4, kinds=["person"], entities=2, overlap=True)
    ref = perceive(SECTION, [folder.source], tmp_path / "out")
    hands = 0
    for row in read_rows(ref, Scene):
        first, second = row.record.entities
        for entity, other in ((first, second), (second, first)):
            for hand in (part for part in entity.parts if part.name == "hand"):
                hands += 1
                assert containment(hand.mask, other.mask) < 0.1
    assert hands >= 6


def test_parquet_and_folder_give_the_same_digest(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(3)
    files = sorted(folder.images.iterdir())
    table = pa.table({"file_name": [f.name for f in files], "image": [f.read_bytes() for f in files]})
    pq.write_table(table, tmp_path / "images.parquet")
    source = folder.source.model_copy(update={"images": str(tmp_path / "images.parquet")})
    first = perceive(SECTION, [folder.source], tmp_path / "a")
    second = perceive(SECTION, [source], tmp_path / "b")
    assert first.digest == second.digest
    assert first.summary == second.summary


def test_complete_data_set_is_returned_at_once(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(2)
    first = perceive(SECTION, [folder.source], tmp_path / "out")
    folder.annotations.unlink()
    assert perceive(SECTION, [folder.source], tmp_path / "out") == first


def test_killed_run_resumes_and_repeats_nothing(
    scene_folder: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scene_folder(6)
    reference = perceive(SECTION, [folder.source], tmp_path / "reference")
    taken: list[str] = []
    take_in = stage.take_in

    def interrupted(data: bytes, name: str, section: PerceptionSection) -> object:
        if len(taken) == 4:
            raise KeyboardInterrupt
        taken.append(name)
        return take_in(data, name, section)

    monkeypatch.setattr(stage, "take_in", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        perceive(ONE_BY_ONE, [folder.source], out)
    chunks = {path: path.stat().st_mtime_ns for path in (out / "chunks").iterdir()}
    assert len(chunks) == 4
    assert not (out / "manifest.json").exists()

    resumed: list[str] = []
    monkeypatch.setattr(stage, "take_in", lambda d, name, s: (resumed.append(name), take_in(d, name, s))[1])
    monkeypatch.setattr(stage.DatasetWriter, "finish", _checked(chunks, stage.DatasetWriter.finish))
    ref = perceive(ONE_BY_ONE, [folder.source], out)
    assert sorted(taken + resumed) == sorted(path.name for path in folder.images.iterdir())
    assert (ref.digest, ref.summary) == (reference.digest, reference.summary)


def _checked(chunks: dict[Path, int], finish: Callable) -> Callable:
    def check_then_finish(writer: stage.DatasetWriter, *arguments: object) -> object:
        assert all(path.stat().st_mtime_ns == written for path, written in chunks.items())
        assert len(list(writer.chunks.iterdir())) == 6
        return finish(writer, *arguments)

    return check_then_finish


def test_copies_are_skipped_and_the_annotated_one_wins(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(2)
    data = (folder.images / "000.png").read_bytes()
    (folder.images / "-copy.png").write_bytes(data)  # sorts first, but nobody annotated it
    (folder.images / "zzz.png").write_bytes(data)
    ref = perceive(SECTION, [folder.source], tmp_path / "out")
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert skipped["scenes/zzz.png"] == "duplicate: same bytes as 000.png"
    assert skipped["scenes/-copy.png"].startswith("grounding_error: -copy.png: not listed")
    assert (ref.rows, ref.summary["skipped"]) == (2, 2)


def test_images_without_vocabulary_or_large_entities_are_skipped(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(3)
    notes = folder.document["annotations"]
    entities = {c["id"] for c in folder.document["categories"] if c["layer"] == "entity"}
    folder.document["annotations"] = [a for a in notes if a["image_id"] != 1 or a["category_id"] in entities]
    folder.save()
    perceive(SECTION, [folder.source], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "skipped.json").read_text()).keys() == {"scenes/001.png"}
    with pytest.raises(PerceptionError, match="no_entity: none covers 95% of the image"):
        perceive(PerceptionSection(entity_min_share=0.95), [folder.source], tmp_path / "other")


def test_sets_keep_their_group_and_score_flag(scene_folder: Callable, tmp_path: Path) -> None:
    scored = scene_folder(2).source
    photos = scored.model_copy(update={"name": "photos", "scored": False, "limit": 1})
    ref = perceive(SECTION, [scored, photos], tmp_path / "out")
    assert sorted((r.record.group, r.record.scored) for r in read_rows(ref, Scene)) == [
        ("photos", False), ("scenes", True), ("scenes", True),
    ]  # fmt: skip
    for sets, message in (([scored, scored], "used twice"), ([], "no input sets")):
        with pytest.raises(SourceError, match=message):
            perceive(SECTION, sets, tmp_path / "bad")
    with pytest.raises(SourceError, match="expected letters"):
        perceive(SECTION, [scored.model_copy(update={"name": "my/set"})], tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


def test_captions_are_written_from_entities(scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(1, kinds=["elephant"], entities=1)
    del folder.document["images"][0]["caption"]
    folder.save()
    ref = perceive(SECTION, [folder.source], tmp_path / "out")
    assert next(read_rows(ref, Scene)).record.caption == "an elephant"
    assert describe(["dog", "cat", "dog"]) == "two dogs and a cat"
    assert describe(["person"] * 3 + ["bus"] * 11 + ["owl"]) == "three people, 11 buses and an owl"
