"""Tasks out, decisions in: what is asked, what an export may be, and what becomes of a set."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artiagent import cli
from artiagent.checkpoints import checkpoint_ref
from artiagent.config import CurationSection
from artiagent.curation.change import target_mask
from artiagent.curation.decisions import DecisionError, apply_decisions, read_decisions
from artiagent.curation.review import JUDGE_MARGIN, borderline, closeness, labelling, slacks, write_tasks
from artiagent.curation.stage import curate
from artiagent.curation.summary import made_by
from artiagent.images import decode
from artiagent.records import AgentCall, Artifact, DatasetRef, Pair
from artiagent.store import read_rows
from artiagent.vlm.calls import CALLS, write_calls

SECTION = CurationSection(judge="none", device="cpu", threads=1, audit_resamples=100)
LIMITS = made_by(SECTION)["limits"]
Stored = tuple[DatasetRef, DatasetRef]
Vote = tuple[str, int, list[Any]]  # job, artifact, choices


@pytest.fixture(scope="module")
def curated(stored: Stored, tiny_vlm: Path, tmp_path_factory: pytest.TempPathFactory) -> DatasetRef:
    judge = checkpoint_ref("tiny", str(tiny_vlm))
    ref = curate(SECTION, *stored, judge, tmp_path_factory.mktemp("curated") / "set")
    write_calls(
        Path(ref.uri) / CALLS, [AgentCall(key="x", task="judge", prompt="j@1", prompt_hash="h", model="m", status="ok")]
    )
    return ref


@pytest.fixture(scope="module")
def pairs(curated: DatasetRef) -> dict[str, Pair]:
    return {row.key: row.record for row in read_rows(curated, Pair, ())}


@pytest.fixture
def export(tmp_path: Path) -> Callable[[list[Vote]], Path]:
    """Label Studio's export; a vote is a choice, or (choice, person), or None for a cancelled annotation."""

    def write(votes: list[Vote]) -> Path:
        tasks = []
        for number, (job, index, choices) in enumerate(votes):
            annotations = []
            for k, vote in enumerate(choices):
                choice, person = vote if isinstance(vote, tuple) else (vote, {"id": k, "email": "a@b.c"})
                result = [{"id": "r", "from_name": "verdict", "to_name": "artifact", "type": "choices",
                           "value": {"choices": [choice or "reject"]}}]  # fmt: skip
                annotations.append(
                    {"id": k, "completed_by": person, "was_cancelled": vote is None, "result": result, "lead_time": 3.5}
                )
            data = {"job_id": job, "artifact_index": index, "clean": "data:image/png;base64,"}
            tasks.append({"id": number, "data": data, "annotations": annotations, "predictions": [], "project": 1})
        path = tmp_path / "export.json"
        path.write_text(json.dumps(tasks))
        return path

    return write


def _first(pairs: dict[str, Pair], wanted: Callable[[Pair], bool]) -> Pair:
    return next(pair for pair in pairs.values() if not pair.benign and wanted(pair))


def _with(pairs: dict[str, Pair], **changes: Any) -> Artifact:
    return _first(pairs, lambda p: p.accepted).faults[0].model_copy(update=changes)


# What is worth a look


def test_the_record_tells_the_figures_that_verdicts_write(pairs: dict[str, Pair]) -> None:
    artifact = _first(pairs, lambda p: p.accepted).faults[0]
    told = " ".join(slack.told for slack in slacks(artifact, LIMITS))
    assert all(name in told for name in ("change inside", "share", "seam", "change outside"))


def test_the_record_tells_the_chances_that_judges_write(pairs: dict[str, Pair]) -> None:
    from artiagent.curation.judge import Opinion

    artifact = _first(pairs, lambda p: p.accepted and p.faults[0].injection.tool == "remove").faults[0]
    judged = artifact.model_copy(update={"detail": f"share 0.50, seam 1.00, ssim 0.40, {Opinion(0.62, 0.60)}"})
    (slack,) = (s for s in slacks(judged, LIMITS) if "judge" in s.told)
    assert slack.value == pytest.approx((0.02 - SECTION.judge_margin) / JUDGE_MARGIN)


@pytest.mark.parametrize(
    ("accepted", "reason", "seam", "inside", "near"),
    [
        (True, None, 3.9, 0.2, 0.1), (True, None, 2.0, 0.2, None), (True, None, 2.0, 0.0525, 0.2),
        (False, "too_damaged", 4.2, 0.2, 0.2), (False, "too_damaged", 9.0, 0.2, None),
        (False, "too_similar", 1.0, 0.045, 0.4),
        (False, "too_similar", 9.0, 0.049, None),  # close by one figure, far by another
        (False, "judge_rejected", 3.9, 0.2, None),  # no measured limit is what rejected it
        (False, "vlm_error", 1.0, 0.2, 0.0),
    ],
)  # fmt: skip
def test_closeness(
    pairs: dict[str, Pair], accepted: bool, reason: str | None, seam: float, inside: float, near: float | None
) -> None:
    tool = _with(pairs).injection.model_copy(update={"tool": "add", "kernel": ""})
    artifact = _with(
        pairs, injection=tool, accepted=accepted, reason=reason, change_inside=inside, change_outside=0.0,
        detail=f"share 0.90, seam {seam:.2f}, ssim 0.50",
    )  # fmt: skip
    found = closeness(artifact, LIMITS)
    assert (found and found.value) == (near if near is None else pytest.approx(near))
    if near is None:
        again = closeness(artifact, LIMITS, repaired=True)
        assert again and "repaired" in again.told


@pytest.mark.parametrize(("similarity", "near"), [(0.79, 0.2), (0.31, 0.2), (0.5, None), (0.83, 0.6), (0.29, 0.2)])
def test_only_distortions_are_near_the_window(pairs: dict[str, Pair], similarity: float, near: float | None) -> None:
    inside = 0.3 <= similarity <= 0.8
    fields = {"distance": 1 - similarity, "accepted": inside, "reason": None if inside else "too_similar"}
    artifact = _with(pairs, change_inside=0.5, change_outside=0.0, detail="", **fields)
    for tool in ("distort", "fuse"):
        injection = artifact.injection.model_copy(update={"tool": tool})
        found = closeness(artifact.model_copy(update={"injection": injection}), LIMITS)
        wanted = near if tool == "distort" else None
        assert (found and found.value) == (wanted if wanted is None else pytest.approx(wanted, abs=1e-6))


# Tasks


def test_tasks_are_ranked_and_show_what_lies_there(curated: DatasetRef, pairs: dict[str, Pair], tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    n = write_tasks(curated, SECTION, path, most=7)
    tasks = [task["data"] for task in json.loads(path.read_text())]
    assert n == len(tasks) == 7 < len(list(borderline(curated, SECTION)))
    assert [t["closeness"] for t in tasks] == sorted(t["closeness"] for t in tasks)
    for task in tasks:
        artifact = pairs[task["job_id"]].artifacts[task["artifact_index"]]
        assert (task["tool"], task["part"]) == (artifact.injection.tool, artifact.injection.part)
        assert artifact.injection.entity in task["question"] and task["question"].endswith("?")
        assert not (pairs[task["job_id"]].pasted_back and not artifact.accepted)
        pictures = [task[name] for name in ("clean", "artifact", "overlay")]
        assert all(uri.startswith("data:image/") for uri in pictures) and len(set(pictures)) == 3
    assert write_tasks(curated, SECTION, tmp_path / "again.json", most=7) == 7
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_the_labelling_configuration_names_the_tasks_fields(curated: DatasetRef, tmp_path: Path) -> None:
    write_tasks(curated, SECTION, tmp_path / "tasks.json", most=1)
    data = json.loads((tmp_path / "tasks.json").read_text())[0]["data"]
    root = ET.fromstring((tmp_path / "tasks.xml").read_text())
    assert (tmp_path / "tasks.xml").read_text() == labelling()
    fields = [tag.get("value").removeprefix("$") for tag in root.iter() if str(tag.get("value")).startswith("$")]
    assert sorted(fields) == ["artifact", "clean", "overlay", "question"] and set(fields) <= set(data)
    (choices,) = root.iter("Choices")
    assert (choices.get("name"), choices.get("toName")) == ("verdict", "artifact")
    assert [choice.get("value") for choice in choices] == ["accept", "reject", "unsure"]
    assert choices.get("toName") in {image.get("name") for image in root.iter("Image")}


def test_images_lie_in_a_folder_where_one_is_given(curated: DatasetRef, tmp_path: Path) -> None:
    write_tasks(curated, SECTION, tmp_path / "tasks.json", most=3, files=tmp_path / "served" / "pictures")
    tasks = [task["data"] for task in json.loads((tmp_path / "tasks.json").read_text())]
    named = [task[name] for task in tasks for name in ("clean", "artifact", "overlay")]
    assert all(name.startswith("/data/local-files/?d=pictures/") for name in named)
    files = {tmp_path / "served" / name.partition("=")[2] for name in named}
    assert {path for path in (tmp_path / "served").rglob("*") if path.is_file()} == files and len(files) == 9
    assert all(decode(path.read_bytes()).ndim == 3 for path in files)


# Decisions


def test_the_majority_decides_and_agreement_is_reported(export: Callable[[list[Vote]], Path]) -> None:
    found = read_decisions(export([
        ("a", 0, ["accept", "accept", "reject"]), ("b", 0, ["reject", "accept"]),
        ("c", 1, ["unsure", "unsure", "accept"]), ("d", 0, [None, "accept"]), ("e", 0, [None]),
        ("f", 0, [("reject", 7), ("accept", 7)]), ("f", 0, [("accept", 8)]),
    ]))  # fmt: skip
    assert found.chosen() == {("a", 0): "accept", ("d", 0): "accept", ("f", 0): "accept"}
    assert ("e", 0) not in found.votes and found.votes["f", 0] == ("accept", "accept")
    agreement = found.agreement()
    assert agreement["pairs"] == 3 + 1 + 3 + 1 and agreement["share"] == pytest.approx(3 / 8)
    chance = (6 / 10) ** 2 + (2 / 10) ** 2 + (2 / 10) ** 2
    assert agreement["kappa"] == pytest.approx((3 / 8 - chance) / (1 - chance), abs=1e-4)
    assert read_decisions(export([("a", 0, ["accept"])])).agreement() == {"pairs": 0, "share": None, "kappa": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", r"export\.json: not valid JSON"),
        ("\ud800", r"export\.json: not valid JSON"),
        ('{"a": 1}', r"export\.json: the file: Input should be a valid list"),
        ('[{"verdict": "accept", "job_id": "a"}]', r"export\.json: \[0\]\.data: Field required.*format JSON"),
        ('[{"data": {"job_id": "a", "artifact_index": -1}, "annotations": []}]', r"\[0\]\.data\.artifact_index: "),
        ('[{"data": {"job_id": "a", "artifact_index": 0}, "annotations": [{}]}]', r"\[0\]\.annotations\[0\]\.result: "),
        (
            '[{"data": {"job_id": "a", "artifact_index": 0}, "annotations": [{"result": [{"from_name": "verdict", '
            '"value": {"choices": ["maybe"]}}]}]}]',
            r"\[0\]\.annotations\[0\]: choices \['maybe'\]; expected one of accept, reject, unsure",
        ),
    ],
)
def test_a_file_that_is_no_export_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "export.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DecisionError, match=message):
        read_decisions(tmp_path / "export.json")


# Round trip


def _applied(curated: DatasetRef, stored: Stored, path: Path, out: Path) -> DatasetRef:
    return apply_decisions(curated, read_decisions(path), stored[1], SECTION, out)


def test_round_trip(
    curated: DatasetRef, pairs: dict[str, Pair], stored: Stored, tmp_path: Path, export: Callable[[list[Vote]], Path]
) -> None:
    """One of several rejected, an only one rejected, a rejected one accepted; the rest stays byte for byte."""
    several = _first(pairs, lambda p: len(p.faults) > 1 and not p.pasted_back)
    only = _first(pairs, lambda p: len(p.faults) == 1 == len(p.artifacts))
    refused = _first(pairs, lambda p: not p.accepted and len(p.artifacts) == 1)
    path = export([
        (several.job_id, 0, ["reject"]), (only.job_id, 0, ["reject", "reject", "accept"]),
        (refused.job_id, 0, ["accept"]),
    ])  # fmt: skip
    ref = _applied(curated, stored, path, tmp_path / "out")
    before, after = ({row.key: row for row in read_rows(r, Pair)} for r in (curated, ref))
    changed = {several.job_id, only.job_id, refused.job_id}
    assert {key for key in before if before[key] != after[key]} == changed and set(before) == set(after)

    pair = after[several.job_id].record
    assert (pair.artifacts[0].accepted, pair.artifacts[0].reason, pair.pasted_back) == (False, "judge_rejected", 1)
    assert pair.artifacts[0].detail.endswith(", reviewed") and not pair.artifacts[0].explanation
    assert [a.explanation for a in pair.faults] == [a.explanation for a in several.artifacts[1:]]
    assert pair.accepted and pair.explanation and pair.explanation != several.explanation
    clean, image = (decode(after[several.job_id].images[side]) for side in ("clean", "artifact"))
    kept = np.logical_or.reduce([target_mask(a, *clean.shape[:2]) for a in pair.faults])
    gone = pair.artifacts[0].region.decode() & ~kept
    assert np.array_equal(clean[gone], image[gone])
    old = decode(before[several.job_id].images["artifact"])
    assert np.array_equal(image[~gone], old[~gone]) and not np.array_equal(image, old)

    assert not after[only.job_id].record.accepted and not after[only.job_id].record.explanation
    assert after[only.job_id].images == before[only.job_id].images
    (artifact,) = after[refused.job_id].record.artifacts
    assert artifact.accepted and artifact.reason is None and artifact.label and artifact.explanation
    assert after[refused.job_id].record.explanation

    assert ref.summary["accepted"] == curated.summary["accepted"]  # one lost, one won
    folder = Path(ref.uri)
    review = json.loads((folder / "review.json").read_text())
    assert (review["decided"], review["changed"], review["undecided"], review["from"]) == (3, 3, 0, curated.digest)
    funnel = json.loads((folder / "funnel.json").read_text())
    assert funnel["reviewed"] == 3 and funnel["limits"]["window"] == [0.3, 0.8]
    assert "3 artifacts decided, 3 verdicts changed" in (folder / "report.html").read_text()
    assert (folder / "audit.json").is_file() and (folder / CALLS).is_file()

    assert _applied(curated, stored, path, tmp_path / "out") == ref
    assert _applied(ref, stored, path, tmp_path / "twice").digest == ref.digest  # decided again, nothing moves
    with pytest.raises(ValueError, match="other settings or from other data"):
        _applied(curated, stored, export([(only.job_id, 0, ["reject"])]), tmp_path / "out")


def test_undecided_votes_change_nothing(
    curated: DatasetRef, pairs: dict[str, Pair], stored: Stored, tmp_path: Path, export: Callable[[list[Vote]], Path]
) -> None:
    pair = _first(pairs, lambda p: p.accepted)
    ref = _applied(curated, stored, export([(pair.job_id, 0, ["accept", "reject"])]), tmp_path / "out")
    assert ref.digest == curated.digest
    assert json.loads((tmp_path / "out" / "review.json").read_text())["undecided"] == 1


def test_decisions_about_something_else_write_nothing(
    curated: DatasetRef, pairs: dict[str, Pair], stored: Stored, tmp_path: Path, export: Callable[[list[Vote]], Path]
) -> None:
    benign = next(pair for pair in pairs.values() if pair.benign)
    undone = _first(pairs, lambda p: p.pasted_back == 1 and p.accepted)
    index = next(i for i, a in enumerate(undone.artifacts) if not a.accepted)
    cases = [
        ("nobody", 0, r"export\.json: \[0\]\.data\.job_id: .* has no pair 'nobody'"),
        (undone.job_id, 9, r"\[0\]\.data\.artifact_index: pair \w+ has no artifact 9"),
        (benign.job_id, 0, r"\[0\]\.data\.artifact_index: pair \w+ has no artifact 0"),
        (undone.job_id, index, r"\[0\]\.data\.artifact_index: artifact \d of \w+ was pasted back"),
    ]
    for job, artifact, message in cases:
        with pytest.raises(DecisionError, match=message):
            _applied(curated, stored, export([(job, artifact, ["accept"])]), tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(DecisionError, match="give another --out"):
        _applied(curated, stored, export([(undone.job_id, index, ["reject"])]), Path(curated.uri))


# Commands


def test_commands_from_pairs_to_a_reviewed_set(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, scenes = (ref.uri for ref in stored)
    options = ["--set", "curation.judge=none", "--set", "curation.audit_resamples=100"]
    run = ["curate", "--pairs", pairs, "--scenes", scenes, "--out", str(tmp_path / "set"), *options]
    assert cli.main([*run, "--set", "curation.metric=auto", "--review", str(tmp_path / "t.json"), "--most", "2"]) == 0
    shown = capsys.readouterr().out
    assert "ssim: LPIPS weights absent (curation.lpips_weights is not set)" in shown
    assert "distort/strip" in shown and f"funnel    {tmp_path / 'set' / 'funnel.json'}" in shown
    assert "2 borderline artifacts" in shown

    tasks = json.loads((tmp_path / "t.json").read_text())
    choice = {"result": [{"from_name": "verdict", "value": {"choices": ["reject"]}}], "completed_by": 1}
    (tmp_path / "e.json").write_text(json.dumps([task | {"annotations": [choice]} for task in tasks]))
    decide = ["curate", "--curated", str(tmp_path / "set"), "--scenes", scenes, "--decisions", str(tmp_path / "e.json")]
    assert cli.main([*decide, "--out", str(tmp_path / "reviewed"), *options]) == 0
    shown = capsys.readouterr().out
    assert "2 artifacts voted on, 2 decided" in shown and f"report    {tmp_path / 'reviewed' / 'report.html'}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --pairs"),
        (["--pairs", "p", "--curated", "c"], "give either --pairs"),
        (["--pairs", "p"], "--scenes and --out are missing"),
        (["--pairs", "p", "--decisions", "d", "--out", "o"], "give --curated instead"),
        (["--curated", "c"], "give --review or --decisions"),
        (["--curated", "c", "--review", "r.json", "--most", "0"], "--most 0"),
        (["--curated", "c", "--review", "r.json"], "c: no complete data set, expected curated"),
        (["--curated", "c", "--decisions", "d", "--out", "o", "--scenes", "s"], "No such file"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["curate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_calibrate_prints_where_the_evidence_is(
    stored: Stored, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", "--curated", stored[0].uri, "--out", str(tmp_path / "e"), "--resamples", "20"]
    assert cli.main([*arguments, "--metric", "ssim"]) == 0
    shown = capsys.readouterr().out
    assert "ssim: undecided" in shown and str(tmp_path / "e" / "calibration.html") in shown
    assert cli.main([*arguments, "--metric", "lpips"]) == 2
    assert "ssim is the documented fallback" in capsys.readouterr().err
    assert cli.main([*arguments, "--loss", "0.7"]) == 2
