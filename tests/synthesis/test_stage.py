"""The synthesis stage: resumable per source, indifferent to shards and processes; bad sources are named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import PlanningSection, SynthesisSection
from artiagent.images import decode, encode
from artiagent.records import CheckpointRef, DatasetRef, Pair, Scene
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row, StoreError, open_dataset, read_rows
from artiagent.synthesis import stage
from artiagent.synthesis.planner import plan
from artiagent.synthesis.render import PairRenderer
from artiagent.synthesis.stage import SynthesisError, planned_sources, synthesize
from tests.synthesis.scenes import write_scenes

SECTION = SynthesisSection(steps=2, threads=1, workers=1)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[DatasetRef, DatasetRef]:
    folder = tmp_path_factory.mktemp("inputs")
    scenes = write_scenes(folder / "scenes", range(3))
    return scenes, plan(PlanningSection(variants=2, benign_share=1.0), scenes, 8, folder / "jobs")


@pytest.fixture(scope="module")
def pairs(inputs: tuple, random_flux: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    return synthesize(SECTION, *inputs, random_flux, tmp_path_factory.mktemp("pairs") / "a")


def on_disk(out: Path) -> list[str]:
    return sorted(path.name.split(".")[0] for path in (out / "chunks").glob("*.parquet"))


def files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*"))


def test_every_job_becomes_a_pair(pairs: DatasetRef, inputs: tuple) -> None:
    rows = list(read_rows(pairs, Pair))
    assert pairs.rows == inputs[1].rows == len(rows)
    for row in rows:
        clean, artifact = decode(row.images["clean"]), decode(row.images["artifact"])
        region = np.logical_or.reduce([a.region.decode() for a in row.record.artifacts])
        assert (clean[~region] == artifact[~region]).all()
        assert all(a.change_outside == 0 for a in row.record.artifacts)
        assert row.record.backbone_sha256


def test_every_pair_says_where_it_comes_from(pairs: DatasetRef, inputs: tuple) -> None:
    scenes = {row.key: row.record for row in read_rows(inputs[0], Scene, images=())}
    for row in read_rows(pairs, Pair, images=()):
        scene = scenes[row.record.source_id]
        assert (row.record.licence, row.record.origin) == (scene.licence, scene.origin) != ("unknown", "")
        assert row.record.agents == scene.agents
        assert row.record.licences == {
            "perception: gpt-4o": "OpenAI terms", "grounding: grounding-dino-tiny": "Apache-2.0",
            "grounding: sam2.1-hiera-tiny": "Apache-2.0", "generator: random-flux": "unknown",
        }  # fmt: skip


def test_shards_do_not_change_the_digest(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path
) -> None:
    for shards in (3, 16):
        section = SECTION.model_copy(update={"shards": shards})
        again = synthesize(section, *inputs, random_flux, tmp_path / str(shards))
        assert again.digest == pairs.digest and again.shards == shards


def test_workers_do_not_change_the_pixels(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path
) -> None:
    section = SECTION.model_copy(update={"workers": 2})
    assert synthesize(section, *inputs, random_flux, tmp_path / "two").digest == pairs.digest


def test_a_killed_run_repeats_nothing(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    original = PairRenderer.__call__

    def interrupted(self: PairRenderer, source):
        if len(rendered) == 2:
            raise KeyboardInterrupt
        rendered.append(source[0].key)
        return original(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(PairRenderer, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            synthesize(SECTION, *inputs, random_flux, tmp_path / "killed")
    assert open_dataset(tmp_path / "killed") is None
    assert on_disk(tmp_path / "killed") == sorted(rendered)

    resumed: list[str] = []

    def counted(self: PairRenderer, source):
        resumed.append(source[0].key)
        return original(self, source)

    monkeypatch.setattr(PairRenderer, "__call__", counted)
    again = synthesize(SECTION, *inputs, random_flux, tmp_path / "killed")
    assert len(resumed) == 1 and not set(resumed) & set(rendered)
    assert again.digest == pairs.digest
    assert files(tmp_path / "killed") == ["failures.json", "manifest.json", "pairs-00000-of-00001.parquet"]


def test_a_damaged_chunk_is_redone(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "damaged"
    monkeypatch.setattr(DatasetWriter, "finish", lambda *a, **k: None)
    synthesize(SECTION, *inputs, random_flux, out)
    monkeypatch.undo()
    victim = sorted((out / "chunks").glob("*.parquet"))[0]
    victim.write_bytes(victim.read_bytes()[:-20])
    assert synthesize(SECTION, *inputs, random_flux, out).digest == pairs.digest


def test_a_complete_set_is_not_rendered_again(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PairRenderer, "__init__", lambda *a: pytest.fail("loaded the backbone"))
    assert synthesize(SECTION, *inputs, random_flux, Path(pairs.uri)).digest == pairs.digest


def rendered_by(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the sources that are rendered from here on."""
    keys: list[str] = []
    original = PairRenderer.__call__

    def counted(self: PairRenderer, source: tuple) -> tuple:
        keys.append(source[0].key)
        return original(self, source)

    monkeypatch.setattr(PairRenderer, "__call__", counted)
    return keys


def test_shards_render_their_part_and_any_other_number_of_them_uses_it(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = rendered_by(monkeypatch)
    sources = [row.key for row in read_rows(inputs[0], Scene, ())]
    out = tmp_path / "s"
    part = synthesize(SECTION, *inputs, random_flux, out, shard=(1, 2))
    assert (part.kind, part.uri) == ("pairs-part", str(out))
    assert keys == sources[2:]
    assert synthesize(SECTION, *inputs, random_flux, out, shard=(1, 2)) == part
    for index in range(5):  # the jobs of a source are not split, and not done twice
        synthesize(SECTION, *inputs, random_flux, out, shard=(index, 16))
    assert keys == [sources[2], sources[0]]
    whole = synthesize(SECTION, *inputs, random_flux, out)
    assert sorted(keys) == sources
    assert (whole.digest, whole.summary) == (pairs.digest, pairs.summary)
    assert files(out) == files(Path(pairs.uri))
    assert synthesize(SECTION, *inputs, random_flux, out, shard=(1, 2)) == whole


@pytest.mark.parametrize("count", [2, 8])
def test_sealed_shards_are_joined_without_reading_or_rendering(
    count: int,
    pairs: DatasetRef,
    inputs: tuple,
    random_flux: CheckpointRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "s"
    parts = [synthesize(SECTION, *inputs, random_flux, out, shard=(index, count)) for index in range(count)]
    assert sum(part.rows for part in parts) == pairs.rows
    before = {path.name: path.stat().st_ino for path in out.glob("*.parquet")}
    monkeypatch.setattr(PairRenderer, "__init__", lambda *a: pytest.fail("loaded the backbone"))
    monkeypatch.setattr(stage, "planned_sources", lambda *a: pytest.fail("read the plan"))
    joined = synthesize(SECTION, *inputs, random_flux, out)
    assert (joined.digest, joined.summary, joined.shards) == (pairs.digest, pairs.summary, count)
    assert [row.key for row in read_rows(joined, Pair, ())] == [row.key for row in read_rows(pairs, Pair, ())]
    assert {path.name: path.stat().st_ino for path in out.glob("*.parquet")} == before


@given(st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_every_source_belongs_to_one_shard(inputs: tuple, count: int) -> None:
    whole = planned_sources(inputs[1])
    parts = [planned_sources(inputs[1], Shard(index, count)) for index in range(count)]
    assert [found for part in parts for found in part.sources.items()] == list(whole.sources.items())
    assert [row for part in parts for row in part.rows] == list(range(inputs[1].rows))
    for part in parts:
        assert sum(len(entry.jobs) for entry in part.sources.values()) == len(part.rows)


@pytest.mark.parametrize("shard", [(4, 4), (5, 4), (-1, 4), (0, 0)])
def test_a_shard_outside_its_range_is_refused(
    shard: tuple[int, int], inputs: tuple, random_flux: CheckpointRef, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="expected I/N with 0 <= I < N"):
        synthesize(SECTION, *inputs, random_flux, tmp_path / "s", shard=shard)
    assert not list(tmp_path.iterdir())


def test_a_shard_that_the_end_overtakes_hands_back_the_whole(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    write = DatasetWriter.write

    def overtaken(writer: DatasetWriter, batch: str, rows: list[Row]) -> None:
        monkeypatch.setattr(DatasetWriter, "write", write)
        synthesize(SECTION, *inputs, random_flux, out)
        write(writer, batch, rows)

    monkeypatch.setattr(DatasetWriter, "write", overtaken)
    assert synthesize(SECTION, *inputs, random_flux, out, shard=(0, 3)).digest == pairs.digest
    assert files(out) == files(Path(pairs.uri))


def test_pairs_of_other_settings_are_refused_but_not_those_of_another_layout(
    inputs: tuple, random_flux: CheckpointRef, tmp_path: Path
) -> None:
    synthesize(SECTION, *inputs, random_flux, tmp_path / "s", shard=(0, 3))
    other = SECTION.model_copy(update={"steps": 3})
    for shard in (None, (1, 3)):
        with pytest.raises(StoreError, match="other settings or from other data"):
            synthesize(other, *inputs, random_flux, tmp_path / "s", shard=shard)
    alike = SECTION.model_copy(update={"shards": 2, "workers": 2})
    assert synthesize(alike, *inputs, random_flux, tmp_path / "s", shard=(0, 3)).kind == "pairs-part"
    synthesize(SECTION, *inputs, random_flux, tmp_path / "s")
    assert synthesize(alike, *inputs, random_flux, tmp_path / "s") is not None
    with pytest.raises(StoreError, match="other settings or from other data"):
        synthesize(other, *inputs, random_flux, tmp_path / "s")


def with_images(scenes: DatasetRef, out: Path, images: dict[int, bytes]) -> DatasetRef:
    """The scene set, some of its images replaced."""
    writer: DatasetWriter[Scene] = DatasetWriter(out, "scenes", ("image",))
    for index, row in enumerate(read_rows(scenes, Scene)):
        writer.write(row.key, [Row(row.key, row.record, {"image": images.get(index, row.images["image"])})])
    return writer.finish()


def test_bad_sources_are_named_and_stop_nothing(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = encode(np.zeros((64, 64, 3), np.uint8))
    scenes = with_images(inputs[0], tmp_path / "scenes", {0: b"no image", 2: small})
    keys = [row.key for row in read_rows(scenes, Scene, ())]
    out = tmp_path / "s"
    assert synthesize(SECTION, scenes, inputs[1], random_flux, out, shard=(0, 1)).rows == 3
    found = synthesize(SECTION, scenes, inputs[1], random_flux, out)
    assert {row.record.source_id for row in read_rows(found, Pair)} == {keys[1]}
    failures = json.loads((out / "failures.json").read_text())
    assert [(f["source_id"], f["reason"]) for f in failures] == [(keys[0], "decode_error"), (keys[2], "wrong_size")]
    assert failures[1]["error"] == "ValueError: 64x64 px, the scene says 128x128"
    assert found.summary["failed_sources"] == 2
    assert found.summary["failed_jobs"] == pairs.rows - found.rows == sum(f["jobs"] for f in failures)
    again = synthesize(SECTION, scenes, inputs[1], random_flux, tmp_path / "again")
    assert (again.digest, again.summary) == (found.digest, found.summary)
    assert (tmp_path / "again" / "failures.json").read_bytes() == (out / "failures.json").read_bytes()


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException, at: int) -> None:
    """Let the renderer raise at its n-th source."""
    original, count = PairRenderer.__call__, [0]

    def fail(self: PairRenderer, source: tuple) -> tuple:
        count[0] += 1
        if count[0] == at or at == 0:
            raise error
        return original(self, source)

    monkeypatch.setattr(PairRenderer, "__call__", fail)


def test_a_source_that_raises_in_a_shard_gets_a_second_chance(
    pairs: DatasetRef, inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("out of memory at 0x7f00"), 2)
        part = synthesize(SECTION, *inputs, random_flux, tmp_path / "s", shard=(0, 1))
    assert (part.rows, part.summary["failed_sources"]) == (pairs.rows - part.summary["failed_jobs"], 1)
    keys = rendered_by(monkeypatch)
    assert synthesize(SECTION, *inputs, random_flux, tmp_path / "s").digest == pairs.digest
    assert len(keys) == 1
    assert json.loads((tmp_path / "s" / "failures.json").read_text()) == []


def test_failures_of_shards_are_believed_if_so_wished(
    inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("out of memory at 0x7f00"), 2)
        unsharded = synthesize(SECTION, *inputs, random_flux, tmp_path / "u")
    with monkeypatch.context() as patch:
        failing(patch, RuntimeError("out of memory at 0x7f01"), 2)
        for index in range(2):
            synthesize(SECTION, *inputs, random_flux, tmp_path / "s", shard=(index, 2))
    monkeypatch.setattr(PairRenderer, "__init__", lambda *a: pytest.fail("loaded the backbone"))
    joined = synthesize(SECTION, *inputs, random_flux, tmp_path / "s", retry_failed=False)
    assert (joined.digest, joined.rows, joined.summary) == (unsharded.digest, unsharded.rows, unsharded.summary)
    listing = (tmp_path / "s" / "failures.json").read_bytes()
    assert listing == (tmp_path / "u" / "failures.json").read_bytes() and b"render_error" in listing


def test_every_source_failing_is_an_error_and_nothing_is_finished(
    inputs: tuple, random_flux: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, RuntimeError("broken at 0x7f00"), 0)
    with pytest.raises(SynthesisError, match="none of the 3 sources.*\n.*render_error: RuntimeError: broken at 0x..."):
        synthesize(SECTION, *inputs, random_flux, tmp_path / "s")
    assert open_dataset(tmp_path / "s") is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("a bug"), FileNotFoundError("weights")])
def test_faults_of_the_program_stop_the_run(
    error: BaseException,
    inputs: tuple,
    random_flux: CheckpointRef,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failing(monkeypatch, error, 2)
    with pytest.raises(type(error)):
        synthesize(SECTION, *inputs, random_flux, tmp_path / "s")
    assert len(on_disk(tmp_path / "s")) == 1


def test_missing_weights_stop_the_run(inputs: tuple, random_flux: CheckpointRef, tmp_path: Path) -> None:
    folder = tmp_path / "flux"
    shutil.copytree(random_flux.uri, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(OSError, match="[Nn]o file named"):
        synthesize(SECTION, *inputs, random_flux.model_copy(update={"uri": str(folder)}), tmp_path / "s")
    assert on_disk(tmp_path / "s") == []
