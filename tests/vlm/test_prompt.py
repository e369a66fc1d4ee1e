from __future__ import annotations

import json
from pathlib import Path

import pytest

from artiagent.curation.explain import GlobalExplanation, LocalExplanation
from artiagent.curation.judge import Judgement
from artiagent.evaluation.questions import Boxes, Explanation, Verdict
from artiagent.perception.vocabulary import Vocabulary
from artiagent.vlm import prompt as prompts
from artiagent.vlm.prompt import question, render, strict_schema

GOLDEN = Path(__file__).with_name("golden_prompts.json")
UNITS = "pixels of the image, which is 128 wide and 64 high"
CASES = {
    "caption@1": ("caption", 1, None, {}),
    "caption@2": ("caption", 2, None, {}),
    "vocabulary@1": ("vocabulary", 1, Vocabulary, {}),
    "judge_add@1": ("judge_add", 1, Judgement, {"part": "ear", "a_part": "an ear", "entity": "dog"}),
    "judge_remove@1": ("judge_remove", 1, Judgement, {"part": "ear", "entity": "dog"}),
    "judge_fuse@1": ("judge_fuse", 1, Judgement, {"both": "the dog and the car"}),
    "explain_local@1": ("explain_local", 1, LocalExplanation, {"subject": "ear of the dog"}),
    "explain_global@1": (
        "explain_global", 1, GlobalExplanation,
        {"units": "", "faults": [{"box": [1, 2, 3, 4], "explanation": "The dog has an extra ear."}]},
    ),
    "benchmark_binary@1": ("benchmark_binary", 1, Verdict, {"question": "Are there any?"}),
    "benchmark_locate@1": ("benchmark_locate", 1, Boxes, {"question": "Where?", "units": UNITS}),
    "benchmark_describe@1": ("benchmark_describe", 1, Explanation, {"question": "What?"}),
}  # fmt: skip


def rendered() -> dict[str, dict[str, str]]:
    made = {key: render(name, answer, number, **fields) for key, (name, number, answer, fields) in CASES.items()}
    return {key: {"hash": p.hash, "text": p.text, "schema": p.schema} for key, p in made.items()}


def test_prompts_are_what_they_were() -> None:
    """A wording that is in records never changes: write a new version. For a new prompt, add its line to the file."""
    assert rendered() == json.loads(GOLDEN.read_text())


def test_every_prompt_file_is_golden() -> None:
    known = {f"{name}@{number}" for path in prompts.FOLDER.glob("*.md") for name, number in [_parts(path)]}
    assert known == set(CASES)


def _parts(path: Path) -> tuple[str, str]:
    name, version = path.stem.rsplit(".v", 1)
    return name, version


def test_the_newest_version_is_asked_unless_another_is_named() -> None:
    assert render("caption").version == 2 and render("caption", version=1).text == "Describe the image."
    assert render("caption").identity == f"caption@2#{render('caption').hash}"


def test_the_hash_is_of_the_question_not_of_what_is_filled_in() -> None:
    one, two = (render("judge_fuse", Judgement, both=both) for both in ("the two dogs", "the dog and the car"))
    assert one.hash == two.hash and one.text != two.text
    assert render("judge_fuse", both="x").hash != one.hash  # another schema is another question


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: render("nothing"), "unknown prompt 'nothing'; expected one of benchmark_binary, "),
        (lambda: render("caption", version=9), "versions 1, 2, not 9"),
        (lambda: render("judge_fuse"), "'both' is undefined"),
    ],
)
def test_bad_calls_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_schemas_are_closed_and_without_references() -> None:
    schema = strict_schema(Vocabulary)
    text = json.dumps(schema)
    assert "$ref" not in text and "$defs" not in text and "title" not in text
    assert schema["required"] == ["peripheral", "intermediate"] and schema["additionalProperties"] is False
    assert schema["properties"]["peripheral"]["items"]["required"] == ["entity", "subentities"]


def test_a_question_of_training_is_a_prompt_without_file() -> None:
    asked = question("part_in_box", "Is there an ear in [0,0,8,8]?")
    assert (asked.version, asked.schema, asked.text) == (0, None, "Is there an ear in [0,0,8,8]?")
    assert asked.hash == question("part_in_box", "another").hash != question("binary", "another").hash
