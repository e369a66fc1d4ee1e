"""The synthesis stage: resumable per source, indifferent to the number of shards, background kept."""

from pathlib import Path

import numpy as np
import pytest

from artiagent.config import PlanningSection, SynthesisSection
from artiagent.images import decode
from artiagent.records import CheckpointRef, DatasetRef, Pair
from artiagent.store import DatasetWriter, open_dataset, read_rows
from artiagent.synthesis.planner import plan
from artiagent.synthesis.stage import PairRenderer, synthesize
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


def test_every_job_becomes_a_pair(pairs: DatasetRef, inputs: tuple) -> None:
    rows = list(read_rows(pairs, Pair))
    assert pairs.rows == inputs[1].rows == len(rows)
    for row in rows:
        clean, artifact = decode(row.images["clean"]), decode(row.images["artifact"])
        region = np.logical_or.reduce([a.region.decode() for a in row.record.artifacts])
        assert (clean[~region] == artifact[~region]).all()
        assert all(a.change_outside == 0 for a in row.record.artifacts)
        assert row.record.backbone_sha256


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
    assert DatasetWriter(tmp_path / "killed", "pairs").done == frozenset(rendered)

    resumed: list[str] = []

    def counted(self: PairRenderer, source):
        resumed.append(source[0].key)
        return original(self, source)

    monkeypatch.setattr(PairRenderer, "__call__", counted)
    again = synthesize(SECTION, *inputs, random_flux, tmp_path / "killed")
    assert len(resumed) == 1 and not set(resumed) & set(rendered)
    assert again.digest == pairs.digest
    assert not list((tmp_path / "killed").glob("**/*.tmp"))


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
