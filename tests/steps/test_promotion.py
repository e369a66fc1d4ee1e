"""Aliases, evidence, crashes, races and rollback on a real registry of its own; no model is run."""

import json
import subprocess
import sys

import pytest

from pipelines.environment import prepare

prepare()

from zenml.client import Client  # noqa: E402

from artiagent.promotion.gate import Decision, MetricResult  # noqa: E402
from artiagent.promotion.records import Promotion  # noqa: E402
from artiagent.records import Interval  # noqa: E402
from artiagent.store import checkout  # noqa: E402
from steps import champion, promote  # noqa: E402
from steps.champion import AWAITING, JOURNAL, ConflictError, act, keep_record, read_record  # noqa: E402
from steps.promote import approve, fulfil, roll_back  # noqa: E402
from steps.registry import aliases_of  # noqa: E402
from steps.resolve_candidates import find  # noqa: E402
from steps.tracking import connect, experiment  # noqa: E402

GAP = Interval(value=0.05, low=0.02, high=0.08, n=60)
DECISION = Decision(
    verdict="promoted", reasons=("macro_f1 is won",), challenger="version 2", champion="version 1", benchmark="drawn",
    revision="a" * 64, prompt_hash="p", n=60, primary="macro_f1", audit="pass", gating_count=3,
    metrics=(MetricResult(metric="macro_f1", role="primary", outcome="won", difference=GAP),),
)  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A registry below a home of its own; ZenML's store is the process's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARTIAGENT_HOME", str(tmp_path_factory.mktemp("home")))
        yield connect()


@pytest.fixture
def registry(client, request):
    """A name with three versions; the first is champion."""
    name = f"artiagent-vlm-{request.node.name.replace('[', '-').rstrip(']')}"
    client.create_registered_model(name)
    for weights in ("one", "two", "three"):
        tags = {"weights_sha256": f"{name} {weights}", "lineage.run": f"{name}-{weights}"}
        client.create_model_version(name, source="file:///nowhere", tags=tags)
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "challenger", "3")
    return name


@pytest.fixture
def intend(client, registry):
    """An act as the gate leaves it, its MLflow run open."""

    def intended(version="2", previous="1", **changes):
        run = client.create_run(experiment(client, "promotion-steps")).info.run_id
        given = {
            "name": registry, "profile": "promotion-steps", "action": "promote", "state": "done", "version": version,
            "previous": previous, "decision": DECISION, "at": "2026-01-01T00:00:00+00:00", "run": run,
        }  # fmt: skip
        return Promotion(**given | changes)

    return intended


def test_a_promotion_moves_aliases_and_leaves_its_evidence(client, registry, intend):
    for weights in ("one", "two"):
        Client().create_model_version("artiagent", f"{registry}-{weights}") if known_model() else None
    Client().get_model_version("artiagent", f"{registry}-one").set_stage("production", force=True)
    done = fulfil(client, intend())
    assert aliases_of(client, registry) == {"champion": "2", "previous": "1", "challenger": "3"}
    version = find(client, registry, "2")
    assert version.tags["promotion.state"] == "done"
    assert version.tags["gate.macro_f1"] == "+0.0500 [+0.0200, +0.0800]"
    assert version.tags["gate.count"] == "3"
    assert "passed the gate" in version.description and "macro_f1 is won" in version.description
    artifacts = {file.path for file in client.list_artifacts(done.run)}
    assert artifacts == {"promotion.json", "decision.json", "card.md"}
    assert JOURNAL not in client.get_registered_model(registry).tags
    stages = [Client().get_model_version("artiagent", f"{registry}-{w}").stage for w in ("one", "two")]
    assert stages == ["archived", "production"]
    assert read_record(client, done.run) == done

    before = snapshot(client, registry)
    with pytest.raises(ConflictError, match="champion is version 2 now, this was decided against version 1"):
        fulfil(client, intend())
    assert snapshot(client, registry) == before


def known_model():
    """ZenML's model, made when no run of this process made it before."""
    try:
        Client().get_model("artiagent")
    except KeyError:
        Client().create_model("artiagent")
    return True


def snapshot(client, name):
    versions = client.search_model_versions(f"name='{name}'")
    return (
        client.get_registered_model(name).tags, aliases_of(client, name),
        {v.version: (dict(v.tags), v.description) for v in versions},
    )  # fmt: skip


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("after", range(4))
def test_a_crash_at_any_line_is_mended_by_the_next_act(client, registry, intend, monkeypatch, after):
    """Killed before "previous", between the aliases, before the evidence, before the end of the journal."""
    first = intend()
    keep_record(client, first)
    calls = ["set_registered_model_alias", "set_registered_model_alias", "update_model_version",
             "delete_registered_model_tag"]  # fmt: skip
    seen = []

    def kill(name):
        original = getattr(type(client), name)

        def wrapped(self, *arguments):
            seen.append(name)
            if len(seen) == after + 1:
                raise Killed
            return original(self, *arguments)

        return wrapped

    with monkeypatch.context() as patch:
        for name in set(calls):
            patch.setattr(type(client), name, kill(name))
        with pytest.raises(Killed):
            act(client, first)
    assert seen == calls[: after + 1]
    assert JOURNAL in client.get_registered_model(registry).tags
    assert aliases_of(client, registry)["champion"] in ("1", "2")

    with pytest.raises(ConflictError, match="champion is version 2 now"):
        act(client, intend("3", "1"))
    assert aliases_of(client, registry) == {"champion": "2", "previous": "1", "challenger": "3"}
    assert find(client, registry, "2").tags["promotion.state"] == "done"
    assert JOURNAL not in client.get_registered_model(registry).tags


def test_an_alias_set_by_hand_after_a_crash_holds(client, registry, intend):
    crashed = intend()
    keep_record(client, crashed)
    client.set_registered_model_tag(registry, JOURNAL, json.dumps({"run": crashed.run, "token": "t"}))
    client.set_registered_model_alias(registry, "champion", "3")
    with champion.locked(registry):
        assert champion.repair(client, registry) is None
    assert aliases_of(client, registry)["champion"] == "3"
    assert JOURNAL not in client.get_registered_model(registry).tags


RACER = """
import sys
from pipelines.environment import prepare
prepare()
from steps.champion import act, read_record
from steps.tracking import connect
client = connect()
promotion = read_record(client, sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    act(client, promotion)
    print("won")
except ValueError as error:
    print("lost", error)
"""


def test_two_processes_at_once_leave_one_champion(client, registry, intend):
    ours, theirs = acts = intend("2"), intend("3")
    for promotion in acts:
        keep_record(client, promotion)
        client.set_model_version_tag(registry, promotion.version, "kind", "reward")  # ZenML shows no reward models
    command = [sys.executable, "-c", RACER, theirs.run]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout(), bufsize=1
    ) as racer:
        assert racer.stdout.readline() == "ready\n"
        racer.stdin.write("go\n")
        racer.stdin.flush()
        try:
            act(client, ours)
            said = "won"
        except ConflictError as error:
            said = f"lost {error}"
        told = [said, racer.communicate(timeout=240)[0].strip()]
    assert sorted(text.split()[0] for text in told) == ["lost", "won"]
    winner = acts[told.index("won")].version
    assert aliases_of(client, registry) == {"champion": winner, "previous": "1", "challenger": "3"}
    assert f"champion is version {winner} now" in next(text for text in told if text.startswith("lost"))


def test_approval_completes_what_waits_and_nothing_else(client, registry, intend):
    with pytest.raises(ValueError, match="does not wait for approval"):
        approve(client, registry, "2", "R. Viewer")
    waiting = fulfil(client, intend(state="awaiting approval"))
    assert aliases_of(client, registry)["champion"] == "1"
    assert find(client, registry, "2").tags[AWAITING] == waiting.run
    with pytest.raises(ValueError, match="needs --by NAME"):
        approve(client, registry, "2", " ")
    done = approve(client, registry, "2", "R. Viewer")
    assert (done.state, done.by, done.run) == ("done", "R. Viewer", waiting.run)
    tags = find(client, registry, "2").tags
    assert tags["promotion.by"] == "R. Viewer" and AWAITING not in tags
    assert "approved by R. Viewer" in find(client, registry, "2").description
    before = snapshot(client, registry)
    assert approve(client, registry, "2", "R. Viewer").state == "nothing to do"
    assert snapshot(client, registry) == before


def test_an_approval_that_comes_too_late_is_refused(client, registry, intend):
    fulfil(client, intend("2", state="awaiting approval"))
    fulfil(client, intend("3"))
    with pytest.raises(ConflictError, match="champion is version 3 now, this was decided against version 1"):
        approve(client, registry, "2", "R. Viewer")
    assert aliases_of(client, registry)["champion"] == "3"


def test_rollback_swaps_and_is_idempotent_with_a_goal(client, registry, intend):
    def back(to=None, reason="boxes shifted"):
        return roll_back(client, registry, "promotion-steps", reason=reason, by="ops", to=to)

    with pytest.raises(ValueError, match="nothing to roll back to"):
        back()
    fulfil(client, intend())
    assert back(to="1").state == "done"
    assert aliases_of(client, registry) == {"champion": "1", "previous": "2", "challenger": "3"}
    version = find(client, registry, "1")
    assert (version.tags["promotion.action"], version.tags["promotion.reason"]) == ("rollback", "boxes shifted")
    assert "rolled back by ops from version 2" in version.description
    before = snapshot(client, registry)
    assert back(to="1").note == "version 1 is the champion already"
    assert snapshot(client, registry) == before
    with pytest.raises(ValueError, match="only the previous champion, version 2"):
        back(to="3")
    back()
    assert aliases_of(client, registry)["champion"] == "2"


def test_a_rollback_that_was_interrupted_is_completed_once(client, registry, intend, monkeypatch):
    fulfil(client, intend())
    with monkeypatch.context() as patch:
        patch.setattr(champion, "note_verdict", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            roll_back(client, registry, "promotion-steps", reason="", by="ops", to=None)
    again = roll_back(client, registry, "promotion-steps", reason="", by="ops", to=None)
    assert again.note == "an interrupted rollback was completed"
    assert aliases_of(client, registry)["champion"] == "1"


def test_the_first_champion_has_nobody_before_it(client, registry, intend):
    client.delete_registered_model_alias(registry, "champion")
    fulfil(client, intend("3", ""))
    assert aliases_of(client, registry) == {"champion": "3", "challenger": "3"}


def test_a_lock_that_is_held_too_long_is_an_error(client, registry):
    with (
        champion.locked(registry),
        pytest.raises(ConflictError, match="another promotion has held it"),
        champion.locked(registry, patience=0.1),
    ):
        pass


def test_a_kept_verdict_is_noted_and_moves_nothing(client, registry, intend):
    reasons = ("macro_f1 is not won: it falls short by 0.020",)
    kept = intend(state="kept", decision=DECISION.model_copy(update={"verdict": "kept", "reasons": reasons}))
    fulfil(client, kept)
    assert aliases_of(client, registry) == {"champion": "1", "challenger": "3"}
    assert find(client, registry, "2").tags["gate.reasons"] == reasons[0]
    assert "falls short by 0.020" in find(client, registry, "2").description


def test_alerts_tell_of_what_was_done(client, registry, intend, monkeypatch):
    told = []
    monkeypatch.setattr(promote, "announce", lambda event, text, fields: told.append((event, text)))
    fulfil(client, intend(state="kept"))
    fulfil(client, intend())
    assert told == [("promotion", f"{registry}: champion is version 2, before it version 1; passed the gate")]
