"""Decisions of people about borderline artifacts: read from Label Studio's export, put into a new curated set.

Knows the export and how a verdict is replaced. The set that was reviewed stays as it is. Does not know why an artifact
was asked about: `curation.review` does.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.change import target_mask
from artiagent.curation.explain import SceneFacts, explain
from artiagent.curation.funnel import FUNNEL, REVIEW
from artiagent.curation.review import CHOICES, PNG, VERDICT
from artiagent.curation.summary import made_by, summarise
from artiagent.curation.verdicts import undo
from artiagent.images import decode, encode
from artiagent.records import Artifact, DatasetRef, Pair, Scene, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows, write_atomic
from artiagent.vlm.calls import CALLS
from artiagent.vlm.template import TemplateVlm

MARK = ", reviewed"
_CHUNK = 32
Place = tuple[str, int]  # job id and index of the artifact


class DecisionError(ValueError):
    """An export that cannot be used; the message names the file and the key. Nothing was written."""


class _Result(BaseModel):
    from_name: str = ""
    value: dict[str, Any] = Field(default_factory=dict)


class _Annotation(BaseModel):
    result: list[_Result]
    was_cancelled: bool = False
    completed_by: int | str | dict[str, Any] | None = None


class _About(BaseModel):
    job_id: str
    artifact_index: int = Field(ge=0)


class _Task(BaseModel):
    data: _About
    annotations: list[_Annotation]


@dataclass(frozen=True)
class Decisions:
    """Votes by artifact; each a choice of one person. ``sha256`` is of the file, ``where`` says where in it."""

    sha256: str
    votes: dict[Place, tuple[str, ...]]
    where: dict[Place, str]

    def chosen(self) -> dict[Place, str]:
        """What most of those who voted chose, accept or reject. A tie and a majority of unsure decide nothing."""
        found = {}
        for place, votes in self.votes.items():
            (first, most), *others = Counter(votes).most_common()
            if first != "unsure" and not (others and others[0][1] == most):
                found[place] = first
        return found

    def agreement(self) -> dict[str, float | int | None]:
        """Share of the pairs of votes about the same artifact that agree, and the share beyond chance (kappa).

        Chance is that two votes drawn from all of these agree. Both None where nobody voted about the same.
        """
        shared = [votes for votes in self.votes.values() if len(votes) > 1]
        pairs = [first == second for votes in shared for first, second in combinations(votes, 2)]
        if not pairs:
            return {"pairs": 0, "share": None, "kappa": None}
        share = sum(pairs) / len(pairs)
        counts = Counter(vote for votes in shared for vote in votes)
        chance = sum((n / counts.total()) ** 2 for n in counts.values())
        kappa = 1.0 if chance == 1 else (share - chance) / (1 - chance)
        return {"pairs": len(pairs), "share": round(share, 4), "kappa": round(kappa, 4)}


def read_decisions(path: Path) -> Decisions:
    """Read Label Studio's export in the format "JSON". Cancelled annotations and those without a verdict do not count.

    A person who answered twice about the same artifact counts with the last answer.
    """
    try:
        data = path.read_bytes()
        tasks = TypeAdapter(list[_Task]).validate_python(json.loads(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise DecisionError(
            f"{path}: {key or 'the file'}: {first['msg']}; expected Label Studio's export in the format JSON, of tasks "
            "that 'artiagent curate --review' wrote"
        ) from error
    except ValueError as error:  # of the bytes or of the JSON
        raise DecisionError(f"{path}: not valid JSON: {error}; export it again") from error
    votes: dict[Place, dict[str, str]] = defaultdict(dict)
    where: dict[Place, str] = {}
    for number, task in enumerate(tasks):
        place = (task.data.job_id, task.data.artifact_index)
        where.setdefault(place, f"{path}: [{number}].data")
        for k, annotation in enumerate(task.annotations):
            at = f"[{number}].annotations[{k}]"
            if not annotation.was_cancelled and (choice := _choice(annotation, f"{path}: {at}")):
                votes[place][_person(annotation, at)] = choice
    return Decisions(hashlib.sha256(data).hexdigest(), {p: tuple(v.values()) for p, v in votes.items()}, where)


def apply_decisions(
    curated: DatasetRef, decisions: Decisions, scenes: DatasetRef, section: CurationSection, out: Path
) -> DatasetRef:
    """Write the set anew into `out`, with the verdicts that people decided, and everything that lies beside it.

    An artifact that people reject beside one that is kept is taken back as curation does; the kept one keeps its
    verdict. A newly accepted one is worded from its record. Resumes; the same decisions again change nothing.

    Raises DecisionError, before anything is written, for an artifact that the set does not have or has no pixels of.
    """
    if out.resolve() == Path(curated.uri).resolve():
        raise DecisionError(f"{out}: is the set that was reviewed; give another --out")
    chosen = decisions.chosen()
    changed = _checked(curated, decisions, chosen)
    stamp = stable_hash(curated.digest, decisions.sha256)
    if (ref := open_dataset(out, stamp)) is None:
        writer: DatasetWriter[Pair] = DatasetWriter(out, "curated", ("clean", "artifact"), stamp)
        by_job = _by_job(chosen)
        known = _facts(scenes, curated, set(by_job))
        for number, rows in enumerate(_chunks(curated)):
            if (name := f"{number:07d}") not in writer:
                writer.write(name, _decided(rows, by_job, section, known))
        if (calls := Path(curated.uri) / CALLS).is_file():
            writer.attach(CALLS, calls.read_bytes())
        ref = writer.finish(curated.summary)
    review = {
        "from": curated.digest, "decisions": decisions.sha256, "decided": len(chosen), "changed": changed,
        "undecided": len(decisions.votes) - len(chosen), "agreement": decisions.agreement(),
    }  # fmt: skip
    write_atomic(out / REVIEW, (json.dumps(review, indent=1) + "\n").encode())
    return summarise(section, ref, {**_made_by(curated, section), "reviewed": len(chosen)})


def _choice(annotation: _Annotation, where: str) -> str:
    """The verdict; "" where there is none."""
    for result in annotation.result:
        if result.from_name == VERDICT:
            chosen = result.value.get("choices")
            if not isinstance(chosen, list) or len(chosen) != 1 or chosen[0] not in CHOICES:
                raise DecisionError(f"{where}: choices {chosen!r}; expected one of {', '.join(CHOICES)}")
            return str(chosen[0])
    return ""


def _person(annotation: _Annotation, otherwise: str) -> str:
    by = annotation.completed_by
    by = by.get("id", by.get("email")) if isinstance(by, dict) else by
    return otherwise if by is None else str(by)


def _checked(curated: DatasetRef, decisions: Decisions, chosen: Mapping[Place, str]) -> int:
    """How many verdicts will change. Raises DecisionError for a place that is not there."""
    jobs = {job for job, _ in decisions.votes}
    by_job = _by_job(chosen)
    found: dict[str, Pair] = {}
    for row in read_rows(curated, Pair, wanted=jobs.__contains__) if jobs else ():
        found[row.key] = row.record
        for index, choice in by_job.get(row.key, {}).items():
            if choice == "accept" and index < len(row.record.artifacts) and _is_undone(row, index):
                raise DecisionError(
                    f"{decisions.where[row.key, index]}.artifact_index: artifact {index} of {row.key} was pasted back; "
                    "it is not in the picture any more and cannot be accepted"
                )
    for place in decisions.votes:
        job, index = place
        if job not in found:
            raise DecisionError(
                f"{decisions.where[place]}.job_id: {curated.uri} has no pair {job!r}; is this export about it?"
            )
        artifacts = found[job].artifacts
        if index >= len(artifacts) or artifacts[index].injection.tool == "benign":
            raise DecisionError(
                f"{decisions.where[place]}.artifact_index: pair {job} has no artifact {index} to decide about"
            )
    return sum(bool(found[job].artifacts[index].accepted) != (c == "accept") for (job, index), c in chosen.items())


def _by_job(chosen: Mapping[Place, str]) -> dict[str, dict[int, str]]:
    table: dict[str, dict[int, str]] = defaultdict(dict)
    for (job, index), choice in chosen.items():
        table[job][index] = choice
    return table


def _is_undone(row: Row[Pair], index: int) -> bool:
    artifact = row.record.artifacts[index]
    if not row.record.pasted_back or artifact.accepted:
        return False
    clean, image = (decode(row.images[side]) for side in ("clean", "artifact"))
    return not (clean != image)[target_mask(artifact, *clean.shape[:2])].any()


def _facts(scenes: DatasetRef, curated: DatasetRef, jobs: set[str]) -> dict[str, SceneFacts]:
    """Of the sources of these jobs."""
    wanted = jobs.__contains__
    sources = {row.record.source_id for row in read_rows(curated, Pair, (), wanted)} if jobs else set()
    rows = read_rows(scenes, Scene, (), sources.__contains__) if sources else ()
    return {row.key: SceneFacts(row.record.caption, tuple(e.name for e in row.record.entities)) for row in rows}


def _made_by(curated: DatasetRef, section: CurationSection) -> dict[str, Any]:
    """What made the reviewed set, as it says itself."""
    used = made_by(section)
    told = json.loads(path.read_text()) if (path := Path(curated.uri) / FUNNEL).is_file() else {}
    return {key: told.get(key, value) for key, value in used.items()}


def _chunks(curated: DatasetRef) -> Iterator[list[Row[Pair]]]:
    rows = read_rows(curated, Pair)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def _decided(
    rows: list[Row[Pair]],
    chosen: Mapping[str, Mapping[int, str]],
    section: CurationSection,
    known: Mapping[str, SceneFacts],
) -> list[Row[Pair]]:
    """The rows, those that people decided about with new verdicts, pixels and words."""
    cases: dict[str, Case] = {}
    before = {row.key: row for row in rows}
    for row in rows:
        if row.key in chosen:
            sides = (decode(row.images[side]) for side in ("clean", "artifact"))
            cases[row.key] = decide(Case(row.record, *sides), chosen[row.key])
    unworded = [c for key, c in cases.items() if c.pair.faults and _faults(c.pair) != _faults(before[key].record)]
    for case in explain(TemplateVlm(), section.vlm, unworded, known):
        cases[case.pair.job_id] = _with_old_words(case, before[case.pair.job_id].record)
    return [_row(row, cases[row.key]) if row.key in cases else row for row in rows]


def decide(case: Case, choices: Mapping[int, str]) -> Case:
    """The case with the verdicts of people, by index of the artifact; what fails beside a kept one is taken back."""
    artifacts = tuple(_judged(a, choices[i]) if i in choices else a for i, a in enumerate(case.pair.artifacts))
    case = case.with_pair(artifacts=artifacts)
    if not case.pair.faults:
        return case.with_pair(explanation="")
    if len(artifacts) - len(case.pair.faults) > case.pair.pasted_back:
        case = undo(case)
        standing = (a.model_copy(update={"accepted": True}) if a.accepted is None else a for a in case.pair.artifacts)
        case = case.with_pair(artifacts=tuple(standing))
    return case


def _judged(artifact: Artifact, choice: str) -> Artifact:
    detail = artifact.detail if artifact.detail.endswith(MARK) else f"{artifact.detail}{MARK}"
    if choice == "accept":
        return artifact.model_copy(update={"accepted": True, "reason": None, "detail": detail})
    words = {"label": "", "explanation": ""}
    return artifact.model_copy(update={"accepted": False, "reason": "judge_rejected", "detail": detail, **words})


def _faults(pair: Pair) -> list[int]:
    return [index for index, artifact in enumerate(pair.artifacts) if artifact.accepted]


def _with_old_words(case: Case, before: Pair) -> Case:
    """Words that were there stay, in whoever's wording; the picture as a whole was explained anew."""
    artifacts = tuple(
        new.model_copy(update={"label": old.label, "explanation": old.explanation}) if new.accepted and old.explanation
        else new
        for new, old in zip(case.pair.artifacts, before.artifacts, strict=True)
    )  # fmt: skip
    agents = {task: agent for task, agent in case.pair.agents.items() if task != "global"}
    return case.with_pair(artifacts=artifacts, caption=before.caption, agents=agents)


def _row(row: Row[Pair], case: Case) -> Row[Pair]:
    """Both sides are encoded anew if, and only if, pixels were put back."""
    if case.pair.pasted_back == row.record.pasted_back:
        return replace(row, record=case.pair)
    image_format = "png" if row.images["clean"].startswith(PNG) else "jpeg"
    sides = {"clean": case.clean, "artifact": case.image}
    return Row(row.key, case.pair, {name: encode(np.asarray(side), image_format) for name, side in sides.items()})
