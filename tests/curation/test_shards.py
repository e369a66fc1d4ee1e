"""Curation in shards: the same verdicts, accounts and audit as in one piece; each shard decodes its own pairs only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artiagent.config import CurationSection
from artiagent.curation import stage
from artiagent.curation.stage import curate
from artiagent.curation.verdicts import Examiner
from artiagent.records import CheckpointRef, DatasetRef, Pair
from artiagent.shards import Shard
from artiagent.store import StoreError, read_rows
from artiagent.vlm.calls import CALLS, read_calls
from artiagent.vlm.protocol import Request

Stored = tuple[DatasetRef, DatasetRef]
SECTION = CurationSection(judge="views", explain="vlm", window=2, device="cpu", audit_resamples=100)
NOBODY = CheckpointRef(name="nobody", uri="nowhere", sha256="0")
COUNT = 8
WORDS = {
    '"evidence"': {"evidence": "It is there.", "verdict": "yes"},
    '"label"': {"label": "odd ear", "explanation": "The ear of the dog is not where an ear should be."},
    '"explanation"': {"explanation": "The dog has an ear in an odd place. No dog has one there."},
}


@pytest.fixture
def agents(scripted, monkeypatch: pytest.MonkeyPatch) -> object:
    """A judge who says yes, and a writer of few words; every call costs a request and a retry."""

    def answer(request: Request) -> str:
        return json.dumps(next(words for mark, words in WORDS.items() if mark in request.prompt.text))

    made = scripted(answer)
    made.spent = lambda: {"requests": 2 * len(made.asked), "retries": len(made.asked), "cost_possible": 0.0}
    monkeypatch.setattr(stage, "load_vlm", lambda *arguments: made)
    return made


def contents(ref: DatasetRef) -> dict[str, object]:
    folder = Path(ref.uri)
    return {
        "digest": ref.digest,
        "rows": [(row.key, row.record, row.images) for row in read_rows(ref, Pair)],
        "calls": list(read_calls(folder / CALLS)),
        "summary": ref.summary,
        **{name: json.loads((folder / name).read_text()) for name in ("funnel.json", "audit.json")},
    }


def test_joined_shards_are_the_data_set_in_one_piece(
    stored: Stored, agents: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = curate(SECTION, *stored, NOBODY, tmp_path / "whole")
    out = tmp_path / "out"
    parts = [curate(SECTION, *stored, NOBODY, out, Shard(index, COUNT)) for index in reversed(range(COUNT))]
    assert {part.kind for part in parts} == {"curated-part"} and sum(part.rows for part in parts) == stored[0].rows
    assert not (out / "funnel.json").exists()
    asked = len(agents.asked)
    monkeypatch.setattr(stage.Curator, "load", _forbidden)
    joined = curate(SECTION, *stored, NOBODY, out)
    assert contents(joined) == contents(whole) and len(agents.asked) == asked
    assert joined.summary["vlm_requests"] == asked == 2 * joined.summary["vlm_calls"]
    assert len(list(out.glob("curated-*.parquet"))) == COUNT and (out / "report.html").is_file()


def _forbidden(*arguments: object) -> object:
    raise AssertionError("joining needs no model")


def test_a_shard_decodes_its_own_pairs_and_knows_their_scenes_only(
    stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = SECTION.model_copy(update={"judge": "none", "explain": "template"})
    known: set[str] = set()
    curated: list[str] = []
    do = stage.Curator.curate

    def watched(self: stage.Curator, cases: list, scenes: dict) -> list:
        known.update(scenes)
        curated.extend(case.pair.job_id for case in cases)
        return do(self, cases, scenes)

    decoded: list[int] = []
    decode = stage.decode
    monkeypatch.setattr(stage.Curator, "curate", watched)
    monkeypatch.setattr(stage, "decode", lambda data: (decoded.append(1), decode(data))[1])
    rows = list(read_rows(stored[0], Pair, images=()))
    windows = -(-len(rows) // 2)
    for index in range(COUNT):
        known.clear(), curated.clear(), decoded.clear()
        curate(section, *stored, NOBODY, tmp_path / "out", Shard(index, COUNT))
        share = Shard(index, COUNT).part(windows)
        mine = rows[2 * share.start : 2 * share.stop]
        assert curated == [row.key for row in mine] and len(decoded) == 2 * len(mine)
        assert known == {row.record.source_id for row in mine}


def test_scenes_are_known_a_stretch_at_a_time(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = SECTION.model_copy(update={"judge": "none", "explain": "template"})
    whole = curate(section, *stored, NOBODY, tmp_path / "whole")
    sizes: list[int] = []
    facts = stage._facts
    monkeypatch.setattr(stage, "_AHEAD", 5)
    monkeypatch.setattr(stage, "_facts", lambda *given: (sizes.append(len(given[2])), facts(*given))[1])
    assert curate(section, *stored, NOBODY, tmp_path / "out").digest == whole.digest
    assert max(sizes) == 4 and sum(sizes) == stored[0].rows


def test_a_killed_shard_is_repeated_alone(stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = SECTION.model_copy(update={"judge": "none", "explain": "template"})
    whole = curate(section, *stored, NOBODY, tmp_path / "whole")
    out, decide = tmp_path / "out", Examiner.decide

    def run(index: int) -> DatasetRef:
        return curate(section, *stored, NOBODY, out, Shard(index, 3))

    run(0), run(2)
    sealed = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    decided: list[str] = []

    def dying(self: Examiner, cases: list) -> list:
        if len(decided) >= 4:
            raise KeyboardInterrupt
        decided.extend(case.pair.job_id for case in cases)
        return decide(self, cases)

    monkeypatch.setattr(Examiner, "decide", dying)
    with pytest.raises(KeyboardInterrupt):
        run(1)
    again: list[str] = []
    monkeypatch.setattr(
        Examiner, "decide", lambda self, cases: (again.extend(c.pair.job_id for c in cases), decide(self, cases))[1]
    )
    part = run(1)
    assert len(decided) == 4 and again and not set(decided) & set(again)
    assert {path: path.stat().st_mtime_ns for path in sealed} == sealed
    assert run(1) == part
    joined = curate(section, *stored, NOBODY, out)
    assert contents(joined) == contents(whole)


def test_another_window_cannot_go_on_with_what_was_begun(stored: Stored, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"judge": "none", "explain": "template"})
    curate(section, *stored, NOBODY, tmp_path / "out", Shard(0, 2))
    with pytest.raises(StoreError, match="other settings"):
        curate(section.model_copy(update={"window": 3}), *stored, NOBODY, tmp_path / "out", Shard(1, 2))


def test_a_call_without_a_shard_curates_what_is_in_none(stored: Stored, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"judge": "none", "explain": "template"})
    whole = curate(section, *stored, NOBODY, tmp_path / "whole")
    curate(section, *stored, NOBODY, tmp_path / "out", Shard(1, 4))
    assert contents(curate(section, *stored, NOBODY, tmp_path / "out")) == contents(whole)
