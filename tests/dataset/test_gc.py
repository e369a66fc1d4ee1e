"""Garbage collection on one machine: nothing that is referred to, young or under way is ever removed."""

import json
import os
import time
from pathlib import Path

import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.cli import main
from artiagent.dataset.garbage import collect, listing, survey
from artiagent.epoch import epoch
from artiagent.exchange import fetch
from artiagent.pointers import Pointer, keep_pointer
from artiagent.records import DatasetRef, Record
from artiagent.store import DatasetWriter, Row, dataset_dir, open_dataset, runs_dir

WEEK = 7 * 86_400


class Thing(Record):
    name: str


def age(place, seconds=WEEK):
    when = time.time() - seconds
    for path in (*place.rglob("*"), place):
        os.utime(path, (when, when))


def made(kind, name, finish=True):
    out = dataset_dir(kind, name)
    writer = DatasetWriter(out, kind)
    writer.write("b", [Row(name, Thing(name=name))])
    ref = writer.finish() if finish else None
    age(out)
    return ref or out


def record(name, finished="2026-01-02", **stages):
    (runs_dir() / name).mkdir(parents=True)
    table = {stage: {"digest": digest} for stage, digest in stages.items()}
    told = {"name": name, "started": "2026-01-01", "finished": finished, "stages": table}
    (runs_dir() / name / "run.json").write_text(json.dumps(told))


def places(found):
    return {Path(g.place).name for g in found}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path))
    monkeypatch.delenv("ARTIAGENT_STORE", raising=False)
    return tmp_path


def test_only_what_nothing_refers_to_goes(home):
    kept, lost = made("pairs", "kept"), made("pairs", "lost")
    beside = Path(f"{lost.uri}.system.jsonl")
    beside.write_text("{}")
    young = made("pairs", "young")
    os.utime(young.uri)
    results = made("evaluate", "results")  # of no kind that is made again
    abandoned = made("scenes", "abandoned", finish=False)
    going = made("scenes", "going", finish=False)
    (going / "chunks" / "new.0.parquet").write_bytes(b"")
    model, other = dataset_dir("tuned", "model"), dataset_dir("tuned", "other")
    for folder in (model, other):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(folder.name)
        age(folder)
    left = home / "store" / "pairs" / f".{'0' * 20}.abc.tmp"
    left.mkdir()
    age(left)
    record("r", synthesize=kept.digest, finetune=checkpoint_ref("tuned", str(model)).sha256)

    found = survey()
    assert places(found.garbage) == {Path(lost.uri).name, abandoned.name, other.name, left.name}
    assert (found.referenced, found.young, found.held) == (2, 2, ())
    assert found.garbage == survey().garbage and epoch() == ""  # looking changes nothing
    before = epoch()
    assert collect(found) == sum(g.bytes for g in found.garbage) > 0
    assert epoch() != before
    for gone in (Path(lost.uri), beside, abandoned, other, left):
        assert not gone.exists()
    for there in (kept.uri, young.uri, results.uri, going, model):
        assert Path(there).exists()
    assert not survey().garbage and not list(home.rglob(".*.tmp"))


def test_a_reference_in_any_file_of_a_run_counts_whole_or_cut():
    cut, named, lost = made("curated", "cut"), made("curated", "named"), made("curated", "lost")
    folder = runs_dir() / "ablation-1" / "rows"
    folder.mkdir(parents=True)
    (folder / "table.json").write_text(json.dumps({"digest": cut.digest[:16], "folder": named.uri}))
    assert places(survey().garbage) == {Path(lost.uri).name}


def test_a_run_that_is_not_finished_holds_everything_back():
    lost = made("pairs", "lost")
    record("begun", finished="")
    found = survey()
    assert not found.garbage and places(found.held) == {Path(lost.uri).name}
    assert "begun, begun 2026-01-01" in listing(found) and "--abandon RUN" in listing(found)
    assert collect(found) == 0 and Path(lost.uri).exists()
    with pytest.raises(ValueError, match="no unfinished run of that name .unfinished: begun"):
        survey(abandon=["other"])
    assert places(survey(abandon=["begun"]).garbage) == {Path(lost.uri).name}


def test_what_is_used_meanwhile_stays():
    lost = made("pairs", "lost")
    found = survey()
    fetch(DatasetRef(kind="pairs", uri=lost.uri, digest=lost.digest, rows=1))  # a step took it as its input
    assert collect(found) == 0 and open_dataset(Path(lost.uri)) == lost
    assert not survey(days=0).garbage  # a day at least


def test_published_sets_and_what_killed_pushes_left(home):
    source, other = made("curated", "p"), made("curated", "q")
    repository = home / "datasets"
    (home / "remote").mkdir()
    told = {"size": 1, "files": 1, "md5": f"{'a' * 32}.dir", "path": "curated-p.dvc", "remote": str(home / "remote")}
    keep_pointer(Pointer(kind="curated", digest=source.digest, **told), repository)
    cache = repository / ".dvc" / "cache" / "files" / "md5"
    listing = json.dumps([{"md5": "b" * 32, "relpath": "x"}])
    for name, text in ((f"aa/{'a' * 30}.dir", listing), (f"bb/{'b' * 30}", ""), (f"cc/{'c' * 30}", "")):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_text(text)
    for name in ("curated-p", ".pushing/curated-0"):
        (repository / name).mkdir(parents=True)
    for name in ("curated-p.dvc", "curated-1.dvc"):
        (repository / name).write_text("outs: []")
    age(repository)
    assert places(survey().garbage) == {Path(other.uri).name, "curated-0", "curated-1.dvc", "c" * 30}
    collect(survey())
    assert Path(source.uri).exists() and (repository / "curated-p.dvc").exists() and not survey().garbage


def test_the_command_lists_unless_told_to_remove(capsys):
    lost = made("pairs", "lost")
    assert main(["data", "gc"]) == 0
    said = capsys.readouterr().out
    assert lost.uri in said and "nothing was removed; --yes removes it" in said and Path(lost.uri).exists()
    assert main(["data", "gc", "--yes", "--dry-run"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main(["data", "gc", "--store"]) == 2
    assert "ARTIAGENT_STORE is not set" in capsys.readouterr().err
    assert main(["data", "gc", "--yes"]) == 0
    assert "removed: " in capsys.readouterr().out and not Path(lost.uri).exists()
