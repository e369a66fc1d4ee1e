from __future__ import annotations

import json
import re

import pytest

from artiagent.config import VlmSection
from artiagent.curation.case import Case
from artiagent.curation.explain import SceneFacts, explain
from artiagent.records import Artifact, Pair
from artiagent.vlm.prompt import render
from artiagent.vlm.protocol import Answer, Request
from artiagent.vlm.template import TemplateVlm

FACTS = SceneFacts("a dog", ("dog",))
LOCAL = '{"label": "third ear", "explanation": "The dog has three ears, which no dog has."}'
GLOBAL = '{"explanation": "The dog has an ear too many. Dogs have two of them."}'
# Tools, processes and image numbers are not a layperson's words.
BANNED = re.compile(r"duplicat|omission|distort|fus(ed|ion)|inject|patch|artifact|shuffl|jitter|\d", re.IGNORECASE)


def _accepted(case: Case, **changes: object) -> Case:
    artifacts = tuple(a.model_copy(update={"accepted": a.injection.tool != "benign"}) for a in case.pair.artifacts)
    return case.with_pair(artifacts=artifacts, **changes)


def _explained(case: Case, facts: SceneFacts = FACTS) -> Pair:
    (found,) = explain(TemplateVlm(), VlmSection(), [case], {case.pair.source_id: facts})
    return found.pair


def test_every_accepted_artifact_gets_a_label_and_a_laypersons_explanation(cases: list[Case]) -> None:
    for pair in (_explained(_accepted(c)) for c in cases):
        for artifact in pair.faults:
            injection = artifact.injection
            assert injection.part in artifact.label and injection.part in artifact.explanation
            assert artifact.label == artifact.label.lower() and len(artifact.label.split()) <= 5
            assert not BANNED.search(artifact.explanation) and artifact.explanation.endswith(".")
        assert pair.caption == "a dog"


def test_the_global_explanation_has_two_or_three_sentences_without_coordinates(cases: list[Case]) -> None:
    for pair in (_explained(_accepted(c)) for c in cases):
        if pair.benign:
            assert pair.explanation == ""
        else:
            assert 2 <= len(re.findall(r"\.(?: |$)", pair.explanation)) <= 3
            assert not BANNED.search(pair.explanation)
            assert all(a.injection.entity in pair.explanation for a in pair.faults)


def test_labels_name_the_fault(cases: list[Case]) -> None:
    words = {
        "add": "extra|additional",
        "remove": "missing|absent",
        "distort": "distorted|deformed",
        "fuse": "fused|merged",
    }
    seen = set()
    for artifact in (a for c in cases for a in _explained(_accepted(c)).faults):
        seen.add(artifact.injection.tool)
        assert re.match(words[artifact.injection.tool], artifact.label)
    assert seen == set(words)


def test_a_benign_pair_is_labelled_clean_and_a_rejected_artifact_gets_nothing(cases: list[Case]) -> None:
    benign = _explained(_accepted(next(c for c in cases if c.pair.benign))).artifacts[0]
    assert (benign.label, benign.explanation) == ("clean", "")
    case = next(c for c in cases if not c.pair.benign)
    rejected: Artifact = case.pair.artifacts[0].model_copy(update={"accepted": False, "reason": "too_similar"})
    result = _explained(case.with_pair(artifacts=(rejected,)))
    assert (result.artifacts[0].label, result.explanation, result.caption) == ("", "", "a dog")


def test_wordings_vary_between_jobs_and_repeat_for_the_same_job(cases: list[Case]) -> None:
    case = next(c for c in cases if c.pair.artifacts[0].injection.tool == "remove")
    texts = []
    for job in range(20):
        twice = [_explained(_accepted(case, job_id=f"job-{job}")) for _ in range(2)]
        assert twice[0] == twice[1]
        texts.append((twice[0].artifacts[0].explanation, twice[0].explanation))
    assert len({local for local, _ in texts}) >= 4 and len({overall for _, overall in texts}) >= 3


def test_a_scene_without_caption_is_captioned_by_its_entities(cases: list[Case]) -> None:
    pair = _explained(cases[0], SceneFacts("", ("elephant", "dog", "car")))
    assert pair.caption == "an elephant, a dog and a car"


def test_the_template_backend_refuses_to_judge_or_to_invent() -> None:
    with pytest.raises(ValueError, match="no eyes and cannot answer 'judge'"):
        next(TemplateVlm().ask([Request("judge", render("caption"), ())]))
    with pytest.raises(ValueError, match="facts"):
        next(TemplateVlm().ask([Request("local", render("caption"), ())]))


def _written(scripted, case: Case, local: object = LOCAL, overall: object = GLOBAL):
    vlm = scripted(lambda r: local if r.task == "local" else overall)
    (found,) = explain(vlm, VlmSection(), [_accepted(case)], {case.pair.source_id: FACTS})
    return vlm, found


def test_a_model_sees_three_views_per_artifact_and_then_the_picture_with_what_was_said(scripted, cases: list) -> None:
    case = next(c for c in cases if len(c.pair.artifacts) == 2 and not c.pair.benign)
    vlm, found = _written(scripted, case)
    assert [r.task for r in vlm.asked] == ["local", "local", "global"]
    assert [len(r.images) for r in vlm.asked] == [3, 3, 1] and vlm.asked[2].images[0] is case.image
    assert {a.label for a in found.pair.artifacts} == {"third ear"}
    assert found.pair.explanation == "The dog has an ear too many. Dogs have two of them."
    said = vlm.asked[2].prompt.text
    assert said.count("The dog has three ears") == 2
    assert all(str(list(a.box)) in said for a in case.pair.artifacts)
    assert [c.status for c in found.calls] == ["ok"] * 3
    stamped = found.stamped().pair.agents
    assert stamped["local"] == f"explain_local@1#{vlm.asked[0].prompt.hash} scripted" and "global" in stamped


@pytest.mark.parametrize(
    "explanation",
    [
        "In image 3 the dog has three ears.", "The picture was edited: three ears.", "Es hat drei Ohren hier am Kopf.",
        "The ear at [10, 20, 30, 40] is one too many.", "This is a duplication of the ear.", "",
    ],
)  # fmt: skip
def test_words_that_tell_of_the_process_are_refused_and_asked_for_again(
    scripted, cases: list, explanation: str
) -> None:
    case = next(c for c in cases if len(c.pair.artifacts) == 1 and not c.pair.benign)
    bad = json.dumps({"label": "third ear", "explanation": explanation})
    vlm, found = _written(scripted, case, bad)
    artifact = found.pair.artifacts[0]
    assert len(vlm.asked) == 2 and found.calls[0].status == "invalid"  # nothing to say about the picture then
    assert artifact.accepted and (artifact.label, artifact.explanation, found.pair.explanation) == ("", "", "")
    assert "not explained: vlm_error" in artifact.detail


def test_a_server_that_fails_costs_the_words_and_not_the_pair(scripted, cases: list) -> None:
    case = next(c for c in cases if len(c.pair.artifacts) == 1 and not c.pair.benign)
    _, found = _written(scripted, case, LOCAL, Answer(error="http 500"))
    assert found.pair.accepted and found.pair.artifacts[0].label == "third ear" and found.pair.explanation == ""
    assert [c.status for c in found.calls] == ["ok", "http 500"]


def test_a_pair_without_its_scene_is_refused(cases: list) -> None:
    with pytest.raises(ValueError, match=f"no scene {cases[0].pair.source_id}"):
        explain(TemplateVlm(), VlmSection(), [cases[0]], {})
