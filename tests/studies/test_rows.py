"""How a study is written down: runs that rows share, and errors that name group, row and key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from artiagent.run_config import ConfigError
from artiagent.studies.rows import load_study

SIZES = [{"name": f"n{n}", "set": {"instruction.pairs": n}} for n in (4, 8, 16, 32)]
STUDY: dict[str, Any] = {
    "scenes": {"count": 10},
    "groups": [
        {"name": "scaling", "title": "How much", "reference": "n4", "curve": True, "rows": SIZES},
        {
            "name": "faults",
            "title": "Which",
            "reference": "injected",
            "set": {"instruction.pairs": 16},
            "tasks": ["localization"],
            "seeds": [1, 2],
            "rows": [{"name": "injected"}, {"name": "drawn", "faults": "drawn"}],
        },
    ],
}


@pytest.fixture
def write(tmp_path: Path):
    def write(change=lambda study: None) -> Path:
        study = copy.deepcopy(STUDY)
        change(study)
        config = {"inputs": {"sets": []}, "sft": {"threads": 1}}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump({"parameters": {"config": config, "study": study}}))
        return tmp_path / "study.yaml"

    return write


def test_rows_share_equal_runs(write) -> None:
    runs, places = load_study(write()).plan()
    made = [(run.data, run.instruction.pairs, run.sft.seed) for run in runs.runs]
    assert made == [
        *(("injected", n, seed) for seed in (0, 1) for n in (4, 8, 16, 32)),
        ("drawn", 16, 1), ("injected", 16, 2), ("drawn", 16, 2),
    ]  # fmt: skip
    assert places["scaling"]["n16"] == [2, 6]
    assert places["faults"] == {"injected": [6, 9], "drawn": [8, 10]}
    assert runs.runs[6].tasks == ("detection", "localization")  # asked by both groups
    assert runs.runs[2].tasks == ("detection",)
    assert runs.drawn.count == 16
    assert all(run.sft.threads == 1 for run in runs.runs)


def test_groups_are_chosen_and_keys_overridden(write) -> None:
    study = load_study(write(), ["study.seeds=[7]", "sft.loss=tokens+margin"], ["scaling"])
    runs, places = study.plan()
    assert list(places) == ["scaling"]
    assert [run.sft.seed for run in runs.runs] == [7] * 4
    assert {run.sft.loss for run in runs.runs} == {"tokens+margin"}
    assert runs.drawn is None


def test_a_rows_key_wins_over_its_groups(write) -> None:
    def change(study):
        study["groups"][1]["rows"][1]["set"] = {"instruction.pairs": 8, "instruction.turns": ["binary"]}

    runs, places = load_study(write(change)).plan()
    drawn = runs.runs[places["faults"]["drawn"][0]]
    assert (drawn.instruction.pairs, drawn.instruction.turns) == (8, ("binary",))


def test_the_shipped_study_has_what_the_issue_asks() -> None:
    study = load_study("configs/nano_study.yaml")
    runs, places = study.plan()
    groups = {group.name: group for group in study.section.groups}
    sizes = [runs.runs[at[0]].instruction.pairs for at in places["scaling"].values()]
    assert len(sizes) >= 6 and groups["scaling"].curve and groups["scaling"].tasks == ("detection",)
    assert all(len(at) >= 2 for at in places["scaling"].values())
    equal = {runs.runs[i].instruction.pairs for at in places["faults"].values() for i in at}
    assert equal == {512} == {runs.runs[i].instruction.pairs for at in places["recipe"].values() for i in at}
    assert {runs.runs[at[0]].sft.sampler for at in places["recipe"].values()} == {"paired", "shuffled"}
    assert {len(runs.runs[at[0]].instruction.turns) for at in places["turns"].values()} == {1, 3, 4}
    assert {tuple(s.train_vision for s in runs.runs[at[0]].sft.stages) for at in places["stages"].values()} == {
        (False, True), (False,), (True,),
    }  # fmt: skip


def _two(study):
    study["groups"][1]["rows"].append({"name": "drawn"})


def _reference(study):
    study["groups"][1]["reference"] = "pepper"


def _key(study):
    study["groups"][0]["rows"][1]["set"] = {"instruction.pears": 8}


def _shared(study):
    study["groups"][0]["rows"][1]["set"]["synthesis.steps"] = 8


def _no_pairs(study):
    study["groups"][1]["set"] = {}


def _few(study):
    study["groups"][0]["rows"] = SIZES[:3]


def _falling(study):
    study["groups"][0]["rows"] = SIZES[::-1]


def _same_group(study):
    study["groups"][1]["name"] = "scaling"


def _no_scenes(study):
    study["scenes"] = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_two, "group 'faults': two rows are called 'drawn'"),
        (_reference, "the reference 'pepper' is not among its rows"),
        (_key, "group 'scaling', row 'n8': unknown key 'instruction.pears'; did you mean 'pairs'"),
        (_shared, "row 'n8': sets 'synthesis', which all rows share"),
        (_no_pairs, "row 'injected': instruction.pairs is null"),
        (_few, "a curve needs 4 rows or more, got 3"),
        (_falling, "expected to rise"),
        (_same_group, "two groups are called 'scaling'"),
        (_no_scenes, "no images: give study.scenes"),
    ],
)
def test_what_is_wrong_is_named(write, change, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(change))


def test_unknown_groups_and_files_without_a_study(write, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--groups 'pepper': no such group in .*known: scaling, faults"):
        load_study(write(), (), ["pepper"])
    with pytest.raises(ConfigError, match="expected a mapping under 'parameters: study:'"):
        load_study("configs/nano.yaml")
