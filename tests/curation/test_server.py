"""The curation stage against a server that fails in every way: it completes, loses nothing unsaid, and resumes."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from secrets import token_hex

import pytest
from aiohttp import web

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import CurationSection, VlmSection
from artiagent.curation.stage import curate
from artiagent.records import CheckpointRef, DatasetRef, Pair
from artiagent.store import read_rows
from artiagent.vlm.calls import CALLS, read_calls
from artiagent.vlm.protocol import VlmUnavailable
from tests.vlm.fault_proxy import FaultProxy
from tests.vlm.servers import ServerThread, completion, content_of, free_port, text_of

Stored = tuple[DatasetRef, DatasetRef]
WORDS = {
    '"evidence"': {"evidence": "It is there.", "verdict": "yes"},
    '"label"': {"label": "odd ear", "explanation": "The ear of the dog is not where an ear should be."},
    '"explanation"': {"explanation": "The dog has an ear in an odd place. No dog has one there."},
}


class Agents:
    """Answers the judge with yes and the writer with the same words; counts the contents it was asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked[content_of(body)] += 1
        said = next(words for mark, words in WORDS.items() if mark in text_of(body))
        return web.json_response(completion(json.dumps(said)))


def section(url: str, model: str, **transport: object) -> CurationSection:
    quick = {"backoff": 0.01, "timeout": 2.0, "attempts": 6, "concurrency": 16, **transport}
    vlm = VlmSection(backend="openai", base_url=url, model=model, price_in=1.0, price_out=2.0, **quick)
    return CurationSection(judge="views", explain="vlm", vlm=vlm, window=8, device="cpu", audit_resamples=100)


@pytest.fixture
def nobody(tiny_vlm: Path) -> CheckpointRef:
    return checkpoint_ref("unused", str(tiny_vlm))


def pairs_of(ref: DatasetRef) -> list[Pair]:
    return [row.record for row in read_rows(ref, Pair, images=())]


def test_a_third_of_faults_costs_no_pair_unsaid(
    stored: Stored, nobody: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog, capsys
) -> None:
    key = f"sk-{token_hex(12)}"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    agents = Agents()
    with ServerThread(agents) as upstream:
        sound = curate(section(upstream.url, "sound"), *stored, nobody, tmp_path / "sound")
        asked = Counter(agents.asked)
        with ServerThread(FaultProxy(upstream.url, 0.3, seed=3)) as proxy:
            ref = curate(section(proxy.url, "faulty"), *stored, nobody, tmp_path / "faulty")
            log = proxy.handler.log
    assert ref.rows == stored[0].rows and {fault for _, fault in log} > {"good"}
    by_content: dict[str, list[str]] = defaultdict(list)
    for content, fault in log:
        by_content[content].append(fault)
    assert all("good" not in faults[:-1] for faults in by_content.values())  # nothing is asked after it was answered
    assert set(asked.values()) == {1}
    for pair in pairs_of(ref):
        for a in pair.artifacts:
            assert a.accepted or a.reason is not None or a.injection.tool == "benign"
            assert not a.accepted or a.label or "not explained: vlm_error" in a.detail
    calls = list(read_calls(Path(ref.uri) / CALLS))
    failed = [c for c in calls if c.status not in ("ok", "repaired")]
    assert len(failed) == ref.summary["vlm_failed"] and all(c.status for c in failed)
    written = [json.dumps([c.model_dump() for c in calls]), *(p.model_dump_json() for p in pairs_of(ref))]
    written += [file.read_text() for file in tmp_path.rglob("*") if file.suffix in (".json", ".html")]
    assert not [text for text in (*written, caplog.text, *capsys.readouterr()) if key in text]
    assert ref.summary["vlm_timeouts"] == sum(fault == "timeout" for _, fault in log)
    assert ref.summary["vlm_possibly_paid"] >= ref.summary["vlm_timeouts"] and ref.summary["vlm_cost_possible"] > 0
    assert ref.summary["vlm_cost"] > 0 and ref.summary["accepted"] >= 0.9 * sound.summary["accepted"] > 0


def test_a_server_down_from_the_start_is_one_clear_error_and_a_rerun_resumes(
    stored: Stored, nobody: CheckpointRef, tmp_path: Path
) -> None:
    port, agents = free_port(), Agents()
    here = section(f"http://127.0.0.1:{port}/v1", "late")
    with pytest.raises(VlmUnavailable, match=rf"127\.0\.0\.1:{port}") as caught:
        curate(here, *stored, nobody, tmp_path / "out")
    assert "curation.vlm.base_url" in str(caught.value)
    with ServerThread(agents, port):
        ref = curate(here, *stored, nobody, tmp_path / "out")
        reference = curate(section(f"http://127.0.0.1:{port}/v1", "late"), *stored, nobody, tmp_path / "again")
    assert ref.digest == reference.digest and set(agents.asked.values()) == {1}  # the second run is all cache
    assert reference.summary["vlm_cost"] == 0 and ref.summary["vlm_cost"] > 0
    pair = next(p for p in pairs_of(ref) if p.accepted)
    assert set(pair.agents) >= {"judge", "local", "global"} and pair.agents["local"].endswith(" late")
    assert pair.explanation == WORDS['"explanation"']["explanation"]


def test_a_server_that_goes_down_half_way_keeps_what_is_finished(
    stored: Stored, nobody: CheckpointRef, tmp_path: Path
) -> None:
    agents = Agents()

    class Dying:
        """Stops listening after a dozen answers."""

        async def __call__(self, request: web.Request) -> web.StreamResponse:
            if len(agents.asked) >= 12:
                server.stop_soon()
                request.transport.abort()
                return web.Response()
            return await agents(request)

    with ServerThread(Dying()) as server:
        port = server.port
        here = section(server.url, "dying", attempts=3)
        with pytest.raises(VlmUnavailable, match="base_url"):
            curate(here, *stored, nobody, tmp_path / "out")
    before = Counter(agents.asked)
    assert len(before) >= 12
    with ServerThread(agents, port):
        ref = curate(here, *stored, nobody, tmp_path / "out")
    assert ref.rows == stored[0].rows and all(agents.asked[content] == n for content, n in before.items())
