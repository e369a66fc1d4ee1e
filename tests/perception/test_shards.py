"""Perception in shards: the same scenes in the same order as in one piece, each shard on its own images only."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import InputSet, PerceptionSection
from artiagent.perception import inventory, perceiver, stage
from artiagent.perception.inventory import INVENTORY, inventory_of, take_inventory
from artiagent.perception.perceiver import Perceiver
from artiagent.perception.sources import SourceError, SourceImage
from artiagent.perception.stage import PerceptionError, perceive
from artiagent.records import AgentCall, DatasetRef, Scene
from artiagent.shards import Shard
from artiagent.store import StoreError, read_rows
from artiagent.vlm.calls import CALLS, read_calls
from artiagent.vlm.protocol import Answer, Request
from tests.perception.test_perceiver import TERMS, Seer

SECTION = PerceptionSection(window=2)
COUNT = 8
Sets = Sequence[InputSet]


def in_shards(
    sets: Sets, out: Path, section: PerceptionSection = SECTION, listed: Path | None = None
) -> list[DatasetRef]:
    """In another order than theirs."""
    order = sorted(range(COUNT), key=lambda index: (index * 3) % COUNT)
    return [perceive(section, sets, out, None, Shard(index, COUNT), listed) for index in order]


def contents(ref: DatasetRef) -> dict[str, object]:
    """All that a stage leaves, but for what clocks say."""
    folder = Path(ref.uri)
    return {
        "digest": ref.digest,
        "rows": [(row.key, row.record, row.images) for row in read_rows(ref, Scene)],
        "skipped": json.loads((folder / "skipped.json").read_text()),
        "calls": [call.model_copy(update={"seconds": 0}) for call in read_calls(folder / CALLS)],
        "summary": ref.summary,
    }


@pytest.fixture
def sets(scene_folder: Callable) -> list[InputSet]:
    """Two sets with copies, of which a later one is annotated, and files that are no images."""
    folder = scene_folder(12)
    data = (folder.images / "003.png").read_bytes()
    for name in ("-copy.png", "zzz.png"):
        (folder.images / name).write_bytes(data)
    for name in ("empty.png", "empty too.png"):
        (folder.images / name).write_bytes(b"")
    (folder.images / "bad.png").write_bytes(data[:500])
    (folder.images / ".hidden.png").write_bytes(data)
    return [folder.source, folder.source.model_copy(update={"name": "photos", "scored": False, "limit": 6})]


@pytest.fixture
def agents(scripted, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """Everything is searched that the rendered scenes know; some images are too much for the agent."""
    entries = [{"entity": kind, "subentities": list(by["peripheral"])} for kind, by in TERMS.items()]
    said = json.dumps({"peripheral": entries, "intermediate": []})

    def answer(request: Request) -> Answer | str:
        if request.task == "vocabulary":
            return Answer(error="timeout") if request.key.endswith("c") else said
        return "a picture"

    made = scripted(answer)
    made.spent = lambda: {"requests": len(made.asked), "retries": 2 * len(made.asked), "cost_possible": 0.0}
    monkeypatch.setattr(perceiver, "load_vlm", lambda *arguments: made)
    monkeypatch.setattr("tests.perception.test_perceiver.SEEDS", range(12))
    seer = Seer()
    monkeypatch.setattr("artiagent.perception.grounding.detect.load_grounder", lambda section: seer)
    return made


def test_joined_shards_are_the_data_set_in_one_piece(sets: Sets, tmp_path: Path) -> None:
    whole = perceive(SECTION, sets, tmp_path / "whole")
    parts = in_shards(sets, tmp_path / "joined")
    assert {part.kind for part in parts} == {"scenes-part"} and sum(part.rows for part in parts) == whole.rows
    joined = perceive(SECTION, sets, tmp_path / "joined")
    assert contents(joined) == contents(whole)
    skipped = contents(joined)["skipped"]
    assert skipped["scenes/zzz.png"] == "duplicate: same bytes as 003.png"
    assert skipped["scenes/-copy.png"].startswith("grounding_error: -copy.png: not listed")
    assert {"scenes/bad.png", "scenes/empty.png", "scenes/empty too.png", "scenes/.hidden.png"} <= skipped.keys()
    assert {name for name in skipped if name.startswith("photos/")} == {"photos/-copy.png", "photos/.hidden.png"}
    assert len(list((tmp_path / "joined").glob("scenes-*.parquet"))) == COUNT


def test_calls_and_what_the_server_charged_beyond_them_are_joined(
    agents: object, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = PerceptionSection(window=3, grounding="grounded_sam", vocabulary="vlm")
    bare = [one.model_copy(update={"annotations": None}) for one in sets]
    whole = perceive(section, bare, tmp_path / "whole")
    asked = len(agents.asked)
    in_shards(bare, tmp_path / "joined", section)
    assert len(agents.asked) == 2 * asked
    joined = perceive(section, bare, tmp_path / "joined")
    assert contents(joined) == contents(whole)
    calls: list[AgentCall] = contents(joined)["calls"]
    assert len(calls) == asked == joined.summary["vlm_requests"] and joined.summary["vlm_retries"] == 2 * asked
    assert Counter(call.status for call in calls)["timeout"] == joined.summary["vlm_failed"] > 0


def test_joining_loads_no_model_and_opens_no_image(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inputs").mkdir()
    in_shards(sets, tmp_path / "out", listed=tmp_path / "inputs")

    def forbidden(*arguments: object) -> object:
        raise AssertionError("is not needed for joining")

    monkeypatch.setattr(Perceiver, "load", forbidden)
    for module, name in ((stage, "iter_images"), (inventory, "iter_images"), (inventory, "left_out")):
        monkeypatch.setattr(module, name, forbidden)
    joined = perceive(SECTION, sets, tmp_path / "out", listed=tmp_path / "inputs")
    assert joined.rows == joined.summary["images"] > 12


def test_a_shard_reads_its_own_images_only(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[tuple[str, str]]] = []
    iter_images = stage.iter_images

    def watched(source: InputSet, wanted: object) -> Iterator[SourceImage]:
        for image in iter_images(source, wanted):
            yield image._replace(read=lambda image=image: (read[-1].append((source.name, image.name)), image.read())[1])

    monkeypatch.setattr(stage, "iter_images", watched)
    monkeypatch.setattr(inventory, "take_inventory", _once(take_inventory))
    found = inventory_of(sets, tmp_path)
    for index in range(COUNT):
        read.append([])
        perceive(SECTION, sets, tmp_path / "out", None, Shard(index, COUNT), tmp_path)
        ids = {one.images[name] for one in found.sets for source, name in read[-1] if source == one.name}
        assert ids == {found.sources[i] for i in Shard(index, COUNT).part(len(found.sources))}
    everything = sum(read, [])
    assert len(everything) == len(set(everything))
    copies = {("scenes", "zzz.png"), ("photos", "zzz.png")}
    assert {(one.name, name) for one in found.sets for name in one.images} - set(everything) <= copies


def _once(function: Callable) -> Callable:
    calls: list[object] = []

    def call(*arguments: object) -> object:
        assert not calls, "called twice"
        calls.append(arguments)
        return function(*arguments)

    return call


def test_a_killed_shard_is_repeated_alone(sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perceive(SECTION, sets, tmp_path / "whole")
    out = tmp_path / "out"
    section, shards = PerceptionSection(window=1), [Shard(index, 3) for index in range(3)]
    perceive(section, sets, out, None, shards[0])
    perceive(section, sets, out, None, shards[2])
    sealed = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    take_in, taken = stage.take_in, []

    def dying(data: bytes, name: str, section: PerceptionSection) -> object:
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(name)
        return take_in(data, name, section)

    monkeypatch.setattr(stage, "take_in", dying)
    with pytest.raises(KeyboardInterrupt):
        perceive(section, sets, out, None, shards[1])
    again: list[str] = []
    monkeypatch.setattr(stage, "take_in", lambda data, name, s: (again.append(name), take_in(data, name, s))[1])
    part = perceive(section, sets, out, None, shards[1])
    assert again and not set(taken[:-1]) & set(again)
    assert {path: path.stat().st_mtime_ns for path in sealed} == sealed
    assert perceive(section, sets, out, None, shards[1]) == part  # sealed: nothing is done
    assert contents(perceive(section, sets, out)) == contents(whole)


def test_a_call_without_a_shard_perceives_what_is_in_none(sets: Sets, tmp_path: Path) -> None:
    whole = perceive(SECTION, sets, tmp_path / "whole")
    perceive(SECTION, sets, tmp_path / "out", None, Shard(1, 4))
    assert contents(perceive(SECTION, sets, tmp_path / "out")) == contents(whole)


def test_parts_of_other_images_are_refused(sets: Sets, tmp_path: Path) -> None:
    perceive(SECTION, sets, tmp_path / "out", None, Shard(0, 2))
    Path(sets[0].images, "new.png").write_bytes(b"new")
    with pytest.raises(StoreError, match="made with other settings or from other data"):
        perceive(SECTION, sets, tmp_path / "out", None, Shard(1, 2))


def test_images_that_change_under_a_kept_inventory_are_an_error(sets: Sets, tmp_path: Path) -> None:
    inventory_of(sets, tmp_path)
    target = Path(sets[0].images, "005.png")
    data = target.read_bytes()
    target.write_bytes(data + b"x")
    with pytest.raises(SourceError, match=r"'scenes': 005.png: holds other bytes; .* start a new run"):
        perceive(SECTION, sets, tmp_path / "out", listed=tmp_path)
    target.unlink()
    with pytest.raises(SourceError, match=r"'scenes': 005.png: is not there any more"):
        perceive(SECTION, sets, tmp_path / "out", listed=tmp_path)
    target.write_bytes(data)
    assert perceive(SECTION, sets, tmp_path / "out", listed=tmp_path).rows > 12


def test_without_a_usable_image_joining_says_why_and_leaves_nothing(tmp_path: Path, scene_folder: Callable) -> None:
    source = scene_folder(3).source
    for file in Path(source.images).iterdir():
        file.write_bytes(file.name.encode())
    for index in range(2):
        assert perceive(SECTION, [source], tmp_path / "out", None, Shard(index, 2)).rows == 0
    with pytest.raises(PerceptionError, match="3 skipped: decode_error 3"):
        perceive(SECTION, [source], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_inventory_is_the_same_from_a_folder_and_from_parquet(sets: Sets, tmp_path: Path) -> None:
    files = [Path(sets[0].images) / name for name in take_inventory(sets[:1]).sets[0].images]
    table = pa.table({"file_name": [f.name for f in files], "image": [f.read_bytes() for f in files]})
    pq.write_table(table, tmp_path / "images.parquet", row_group_size=4)
    parquet = sets[0].model_copy(update={"images": str(tmp_path / "images.parquet")})
    assert take_inventory([parquet]).sets[0].images == take_inventory(sets[:1]).sets[0].images
    whole = perceive(SECTION, sets[:1], tmp_path / "whole")
    in_shards([parquet], tmp_path / "joined")
    assert perceive(SECTION, [parquet], tmp_path / "joined").digest == whole.digest


def test_a_damaged_inventory_is_taken_anew(sets: Sets, tmp_path: Path) -> None:
    first = inventory_of(sets, tmp_path)
    kept = (tmp_path / INVENTORY).read_text()
    (tmp_path / INVENTORY).write_text(kept[:100])
    assert inventory_of(sets, tmp_path) == first and (tmp_path / INVENTORY).read_text() == kept
    assert inventory_of(sets[:1], tmp_path).sets == first.sets[:1]  # of other sets


def test_a_shard_reads_the_annotations_of_its_own_sets_only(sets: Sets, tmp_path: Path) -> None:
    inventory_of(sets, tmp_path)
    bare = [sets[0].model_copy(update={"annotations": None}), sets[1]]  # "photos" sorts first
    assert perceive(SECTION, bare, tmp_path / "out", None, Shard(0, COUNT), tmp_path).rows == 2
    with pytest.raises(SourceError, match="'scenes': no annotations given"):
        perceive(SECTION, bare, tmp_path / "out", None, Shard(COUNT - 1, COUNT), tmp_path)


def test_an_image_that_cannot_be_read_any_more_stops_the_shard(
    sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = perceive(SECTION, sets, tmp_path / "whole")
    iter_images = stage.iter_images

    def failing() -> bytes:
        raise OSError(5, "Input/output error")

    def flaky(source: InputSet, wanted: object) -> Iterator[SourceImage]:
        for image in iter_images(source, wanted):
            yield image._replace(read=failing) if image.name == "004.png" else image

    with monkeypatch.context() as patch:
        patch.setattr(stage, "iter_images", flaky)
        with pytest.raises(SourceError, match=r"004.png: cannot be read any more \(Input/output error\); run again"):
            perceive(SECTION, sets, tmp_path / "out")
    assert contents(perceive(SECTION, sets, tmp_path / "out")) == contents(whole)
