"""What is asked: trained wordings as they are, defined ones with definition, types and form first."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from artiagent.config import EvaluationSection
from artiagent.evaluation.parsing import parse_boxes, parse_explanation, parse_said_verdict
from artiagent.evaluation.questions import KINDS, VERDICTS, Task, key_of, prompt_hash, prompt_of, units_of
from artiagent.instruction import prompts
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import FAULT_OF_TOOL
from artiagent.vlm.prompt import FOLDER

TRAINED, DEFINED = (EvaluationSection(prompts=name) for name in ("trained", "defined"))
SPACE = CoordinateSpace(256, 128, 128, 64)
TASKS: tuple[Task, ...] = get_args(Task)


def test_trained_questions_are_the_canonical_wordings_and_keep_their_hash() -> None:
    assert prompt_hash(TRAINED) == "05ce56ec3b78c540"
    asked = [prompt_of(TRAINED, task, SPACE) for task in TASKS]
    questions = (prompts.BINARY, prompts.LOCATE_ARTIFACTS, prompts.DESCRIBE_ARTIFACTS)
    assert [p.text for p in asked] == [prompts.render(question) for question in questions]
    assert all(p.schema is None for p in asked) and not any(key_of(TRAINED, task) for task in TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_defined_questions_end_with_the_wording_that_was_trained(task: Task) -> None:
    asked = prompt_of(DEFINED, task, SPACE)
    assert asked.text.endswith("\n\n" + prompt_of(TRAINED, task, SPACE).text)
    assert all(f"- {fault}:" in asked.text for fault in FAULT_OF_TOOL.values())
    assert asked.schema["required"] == [key_of(DEFINED, task)] and f'{{"{key_of(DEFINED, task)}": ' in asked.text


def test_the_definition_is_the_same_in_every_task() -> None:
    texts = [prompt_of(DEFINED, task, SPACE).text for task in TASKS]
    until = texts[0].index("Answer with JSON")
    assert until > 500 and all(text.startswith(texts[0][:until]) for text in texts)


def test_boxes_are_asked_for_in_the_models_units() -> None:
    assert "pixels of the image, which is 128 wide and 64 high" in prompt_of(DEFINED, "localization", SPACE).text
    assert "thousandths" in units_of(CoordinateSpace.named("per_mille", 640, 480))
    others = [prompt_of(DEFINED, task, SPACE) for task in ("detection", "explanation")]
    assert not any("128" in other.text for other in others)


def test_the_hash_is_of_tasks_wording_and_version_not_of_the_image() -> None:
    fewer = DEFINED.model_copy(update={"tasks": ("detection",)})
    assert len({prompt_hash(TRAINED), prompt_hash(DEFINED), prompt_hash(fewer)}) == 3
    here, there = (prompt_of(DEFINED, "localization", space) for space in (SPACE, CoordinateSpace(9, 9, 9, 9)))
    assert here.text != there.text and here.hash == there.hash
    turned = DEFINED.model_copy(update={"tasks": DEFINED.tasks[::-1]})
    assert prompt_hash(turned) == prompt_hash(DEFINED)


def test_a_version_can_be_pinned() -> None:
    pins = {kind.file: 1 for kind in KINDS.values()}
    pinned = DEFINED.model_copy(update={"vlm": DEFINED.vlm.model_copy(update={"prompts": pins})})
    assert [prompt_of(pinned, task, SPACE).version for task in TASKS] == [1, 1, 1]
    missing = DEFINED.model_copy(update={"vlm": DEFINED.vlm.model_copy(update={"prompts": {"benchmark_binary": 99}})})
    with pytest.raises(ValueError, match="'benchmark_binary' has versions"):
        prompt_of(missing, "detection", SPACE)
    assert all((FOLDER / f"{kind.file}.v1.md").is_file() for kind in KINDS.values())


def test_the_form_that_is_asked_for_is_the_form_that_is_read() -> None:
    for yes, no in VERDICTS.values():
        key = "artifacts" if "{" in yes else None
        assert [parse_said_verdict(text, key) for text in (yes, no)] == [(True, "ok"), (False, "ok")]
    boxes = json.dumps({key_of(DEFINED, "localization"): [[8, 8, 16, 24]]})
    assert parse_boxes(boxes, SPACE, key_of(DEFINED, "localization"))[1] == "ok"
    told = json.dumps({key_of(DEFINED, "explanation"): "An extra ear."})
    assert parse_explanation(told, key_of(DEFINED, "explanation")) == ("An extra ear.", "ok")
