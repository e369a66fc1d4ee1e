"""The card says what is known, and that nothing is known where that is so."""

import json

import pytest

from artiagent.config import Config
from artiagent.promotion.card import DESCRIPTION, description, model_card, newcomer
from artiagent.promotion.evidence import SHOWN, of_reward, of_vlm
from artiagent.promotion.gate import Decision, MetricResult
from artiagent.promotion.records import Promotion
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval
from artiagent.store import DatasetWriter

HALF = Interval(value=0.5, low=0.4, high=0.6, n=10)
DECISION = Decision(
    verdict="promoted", reasons=("macro_f1 is won: by a nose",), challenger="version 2", champion="version 1",
    benchmark="drawn", revision="a" * 64, prompt_hash="p", n=600, primary="macro_f1", gating_count=4, resamples=10_000,
    metrics=(MetricResult(metric="macro_f1", role="primary", outcome="won", challenger=HALF, champion=HALF,
                          difference=HALF),),
)  # fmt: skip


def act(**changes):
    given = {
        "name": "artiagent-vlm-x", "profile": "x", "action": "promote", "state": "done", "version": "2",
        "previous": "1", "decision": DECISION, "at": "2026-01-01", "run": "r1",
    }  # fmt: skip
    return Promotion(**given | changes)


@pytest.fixture
def evidence(tmp_path):
    curated = DatasetWriter(tmp_path / "curated", "curated").finish()
    (tmp_path / "curated" / "audit.json").write_text(json.dumps({"verdict": "insufficient n"}))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    curve = [{"stage": "language", "step": k, "loss": 1 / (k + 1), "nested": {}} for k in range(300)]
    (folder / "training.json").write_text(json.dumps(curve))
    model = CheckpointRef(name="tuned", uri=str(folder), sha256="c" * 64, base_sha256="b" * 64)
    report = EvaluationReport(
        benchmark="drawn", benchmark_sha256="a" * 64, prompt_hash="p", n=600, n_faulty=300,
        scores={"tuned": {"macro_f1": HALF}, "always_yes": {"macro_f1": HALF}},
        breakdown={"tuned/fusion": {"recall": HALF}, "base/fusion": {"recall": HALF}},
    )  # fmt: skip
    answers = DatasetRef(kind="predictions", uri="/answers", digest="", rows=0, summary={"lineage.code": "k"})
    return of_vlm(Config(), curated, curated, model, answers, report)


def test_evidence_knows_origin_audit_and_a_thinned_curve(evidence):
    assert evidence.audit_verdict == "insufficient n"
    assert (evidence.family, evidence.base.name) == ("qwen2_5_vl", "nano-vl")
    assert len(evidence.curve) <= SHOWN
    assert evidence.curve[-1] == {"stage": "language", "step": 299, "loss": 1 / 300}
    tags = evidence.tags()
    assert tags["benchmark_sha256"] == "a" * 64
    assert (tags["predictions"], tags["predictions_code"], tags["kind"]) == ("/answers", "k", "vlm")
    assert all(isinstance(value, str) and value for value in tags.values())


def test_the_card_tells_the_whole_story(evidence):
    card = model_card("artiagent-vlm-x", "2", "c" * 64, ["champion"], evidence, act(by="R. Viewer"))
    for said in (
        "# artiagent-vlm-x, version 2", "passed the gate, approved by R. Viewer", "| macro_f1 | primary |",
        "+0.500 [+0.400, +0.600]", "looked at 4 times", "chance of up to 10 %", "learning_rate", "| language | 299 |",
        "| always_yes | 0.500 [0.400, 0.600] |", "Hardest for it: fusion (recall 0.500", "licence: Apache-2.0",
        "The shortcut audit of its training data did not pass (insufficient n)", "out of scope",
        "models:/artiagent-vlm-x/2",
    ):  # fmt: skip
        assert said in card, said
    assert "base/fusion" not in card
    assert card == model_card("artiagent-vlm-x", "2", "c" * 64, ["champion"], evidence, act(by="R. Viewer"))


def test_the_card_of_a_reward_says_what_it_was_measured_on_and_how_it_is_used(tmp_path):
    curated = DatasetWriter(tmp_path / "curated", "curated").finish()
    (tmp_path / "curated" / "audit.json").write_text(json.dumps({"verdict": "pass"}))
    scores = {"within": HALF.model_dump(), "benchmark_auroc": HALF.model_dump()}
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    model = CheckpointRef(name="reward", uri=str(tmp_path), sha256="d" * 64, base_sha256="e" * 64)
    report = EvaluationReport(
        benchmark="drawn", benchmark_sha256="a" * 64, prompt_hash="p", n=600, n_faulty=300, scores={}
    )
    evidence = of_reward(Config(), curated, model, report)
    tags = evidence.tags()
    assert (tags["kind"], tags["audit"], tags["benchmark_sha256"]) == ("reward", "pass", "a" * 64)
    assert "prompt_hash" not in tags
    card = model_card("artiagent-reward-x", "3", "d" * 64, ["champion"], evidence)
    for said in (
        "# artiagent-reward-x, version 3", "reward model (verifier)", "shortcut audit of the data | pass",
        "on `drawn`, revision `aaaaaaaaaaaaaaaa`", "| benchmark_auroc | 0.500 [0.400, 0.600], n = 10 |",
        "artiagent search --reward models:/artiagent-reward-x/3", "learns to please it",
    ):  # fmt: skip
        assert said in card, said
    assert evidence.base.name == "nano-vl"
    assert "vllm" not in card and "inspect" not in card
    assert "; benchmark: `drawn` (revision `aaaaaaaaaaaaaaaa`). Not judged by a gate yet." in newcomer(evidence)


def test_a_version_without_evidence_says_so():
    card = model_card("artiagent-vlm-x", "1", "c" * 64, [], None)
    assert "Registered without evidence" in card
    assert "No gate has judged this version yet" in card


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"action": "force", "reason": "faster", "by": "ops"}, "forced by ops past the gate, with the reason: faster"),
        ({"action": "rollback", "version": "1", "previous": "2", "by": "ops"}, "rolled back by ops from version 2"),
        ({"state": "kept"}, "the gate kept the champion"),
        ({"state": "awaiting approval"}, "artiagent promote --name artiagent-vlm-x --approve 2 --by NAME"),
    ],
)
def test_every_way_to_the_place_has_its_sentence(changes, said):
    assert said in description(act(**changes))


def test_a_description_fits_into_a_registry_on_a_server():
    long = DECISION.model_copy(update={"reasons": ("x" * 9000,)})
    assert len(description(act(decision=long))) <= DESCRIPTION
