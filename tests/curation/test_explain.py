from __future__ import annotations

import re

import pytest

from artiagent.curation.explain import SceneFacts, explain
from artiagent.curation.verdicts import Case
from artiagent.records import Artifact, Pair
from artiagent.vlm.template import TemplateVlm

FACTS = SceneFacts("a dog", ("dog",))
# Tools, processes and image numbers are not a layperson's words.
BANNED = re.compile(r"duplicat|omission|distort|fus(ed|ion)|inject|patch|artifact|shuffl|jitter|\d", re.IGNORECASE)


def _accepted(case: Case) -> Pair:
    artifacts = tuple(a.model_copy(update={"accepted": a.injection.tool != "benign"}) for a in case.pair.artifacts)
    return case.pair.model_copy(update={"artifacts": artifacts})


def _explained(case: Case) -> Pair:
    return explain(TemplateVlm(), _accepted(case), case.clean, case.image, FACTS)


def test_every_accepted_artifact_gets_a_label_and_a_laypersons_explanation(cases: list[Case]) -> None:
    for pair in map(_explained, cases):
        for artifact in pair.faults:
            injection = artifact.injection
            assert injection.part in artifact.label and injection.part in artifact.explanation
            assert artifact.label == artifact.label.lower() and len(artifact.label.split()) <= 5
            assert not BANNED.search(artifact.explanation) and artifact.explanation.endswith(".")
        assert pair.caption == "a dog"


def test_the_global_explanation_has_two_or_three_sentences_without_coordinates(cases: list[Case]) -> None:
    for pair in map(_explained, cases):
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
    for artifact in (a for c in cases for a in _explained(c).faults):
        seen.add(artifact.injection.tool)
        assert re.match(words[artifact.injection.tool], artifact.label)
    assert seen == set(words)


def test_a_benign_pair_is_labelled_clean_and_a_rejected_artifact_gets_nothing(cases: list[Case]) -> None:
    benign = _explained(next(c for c in cases if c.pair.benign)).artifacts[0]
    assert (benign.label, benign.explanation) == ("clean", "")
    case = next(c for c in cases if not c.pair.benign)
    rejected: Artifact = case.pair.artifacts[0].model_copy(update={"accepted": False, "reason": "too_similar"})
    pair = case.pair.model_copy(update={"artifacts": (rejected,)})
    result = explain(TemplateVlm(), pair, case.clean, case.image, FACTS)
    assert (result.artifacts[0].label, result.explanation, result.caption) == ("", "", "a dog")


def test_wordings_vary_between_jobs_and_repeat_for_the_same_job(cases: list[Case]) -> None:
    case = next(c for c in cases if c.pair.artifacts[0].injection.tool == "remove")
    texts = []
    for job in range(20):
        pair = _accepted(case).model_copy(update={"job_id": f"job-{job}"})
        twice = [explain(TemplateVlm(), pair, case.clean, case.image, FACTS) for _ in range(2)]
        assert twice[0] == twice[1]
        texts.append((twice[0].artifacts[0].explanation, twice[0].explanation))
    assert len({local for local, _ in texts}) >= 4 and len({overall for _, overall in texts}) >= 3


def test_a_scene_without_caption_is_captioned_by_its_entities(cases: list[Case]) -> None:
    facts = SceneFacts("", ("elephant", "dog", "car"))
    pair = explain(TemplateVlm(), cases[0].pair, cases[0].clean, cases[0].image, facts)
    assert pair.caption == "an elephant, a dog and a car"


def test_the_template_backend_refuses_to_judge_or_to_invent() -> None:
    with pytest.raises(ValueError, match="never judges"):
        TemplateVlm().yes_no([], [])
    with pytest.raises(ValueError, match="facts"):
        TemplateVlm().generate([], ["What is wrong?"], 10)
