"""How good is each filter of curation? Precision and recall per stage and tool, where the truth is known.

Every stage is asked about every artifact, whatever the stages before it said: the change audit, the perceptual window
(distortions), and each judge under test; then all of them together. `edits` are pairs whose truth the renderer knows
(`drawn_pairs.write_filter_test`: drawn faults against edits that are none); for injected pairs nano-parser's opinion
stands for the truth, which it is not (docs/curation.md says how much it sees).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.change import Change, audit_change
from artiagent.curation.judge import Judge
from artiagent.curation.perceptual import Metric, window_reason
from artiagent.curation.views import View
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.metrics import ratio_of
from artiagent.images import decode
from artiagent.nano.parser import Parser
from artiagent.nano.truth import seen
from artiagent.records import Artifact, DatasetRef, Interval, Pair
from artiagent.store import read_rows

CHANGE, WINDOW, TOGETHER = "change audit", "perceptual window", "all stages"
BATCH = 32
RESAMPLES = 2000
Truth = Callable[[Sequence[Case]], list[bool | None]]


class Opinion(NamedTuple):
    """What one stage says of one artifact; ``reason`` is "" where the stage lets it pass."""

    stage: str
    tool: str
    kind: str  # fault, or the name of an edit that is none; "injected" without a known edit
    source: str
    true: bool
    reason: str


def edits_truth(cases: Sequence[Case]) -> list[bool | None]:
    """Of a filter test: the pair's prompt names what was done."""
    return [case.pair.prompt == "fault" for case in cases]


def parser_truth(parser: Parser) -> Truth:
    """What nano-parser sees; None where it does not know the part."""

    def truth(cases: Sequence[Case]) -> list[bool | None]:
        sides = [parser.parse([getattr(case, side) for case in cases]) for side in ("clean", "image")]
        return [seen(case.pair.artifacts[0], a, b) for case, a, b in zip(cases, *sides, strict=True)]

    return truth


def opinions(
    pairs: DatasetRef | Path, section: CurationSection, metric: Metric, judges: Mapping[str, Judge], truth: Truth
) -> Iterator[Opinion]:
    """Every stage's word on every artifact of the set; pairs with several artifacts and benign ones are passed over."""
    rows = (r for r in read_rows(pairs, Pair) if len(r.record.artifacts) == 1 and not r.record.benign)
    cases = (Case(r.record, decode(r.images["clean"]), decode(r.images["artifact"])) for r in rows)
    with tqdm(desc="judge quality", unit="pair") as progress:
        while batch := list(islice(cases, BATCH)):
            known = [(case, true) for case, true in zip(batch, truth(batch), strict=True) if true is not None]
            for stage, reasons in _stages([case for case, _ in known], section, metric, judges):
                for (case, true), reason in zip(known, reasons, strict=True):
                    if reason is not None:
                        yield _opinion(stage, case, true, reason)
            progress.update(len(batch))


def _stages(
    cases: list[Case], section: CurationSection, metric: Metric, judges: Mapping[str, Judge]
) -> Iterator[tuple[str, list[str | None]]]:
    """(stage, reason per case); None where the stage is not for this tool."""
    artifacts = [_fresh(case) for case in cases]
    changed = [_change(case, a).reason(section) or "" for case, a in zip(cases, artifacts, strict=True)]
    distances = metric.distances([(c.clean, c.image, a.box) for c, a in zip(cases, artifacts, strict=True)])
    inside = [
        (window_reason(d, metric.window) or "") if a.injection.tool == "distort" else None
        for a, d in zip(artifacts, distances, strict=True)
    ]
    yield CHANGE, changed
    yield f"{WINDOW} ({metric.name})", inside
    views = [View(c.clean, c.image, a, c.pair.job_id) for c, a in zip(cases, artifacts, strict=True)]
    for name, judge in judges.items():
        verdicts = judge(views)
        yield name, [(v.reason or "") if v.calls else None for v in verdicts]
        said = zip(changed, inside, (v.reason for v in verdicts), strict=True)
        yield f"{TOGETHER}, {name}", [next(filter(None, reasons), "") for reasons in said]


def _fresh(case: Case) -> Artifact:
    return case.pair.artifacts[0].model_copy(update={"accepted": None, "reason": None})


def _change(case: Case, artifact: Artifact) -> Change:
    return audit_change(case.clean, case.image, artifact, [artifact.region.decode()])


def _opinion(stage: str, case: Case, true: bool, reason: str) -> Opinion:
    kind = case.pair.prompt if case.pair.backbone == "renderer" else "injected"
    return Opinion(stage, case.pair.artifacts[0].injection.tool, kind, case.pair.source_id, true, reason)


def quality(found: Iterable[Opinion], seed: int = 0) -> dict[str, dict[str, dict[str, object]]]:
    """stage -> tool ("all" included) -> precision, recall, pass rate of faultless edits, reasons and kinds.

    An artifact that passes counts as called true. Intervals resample sources; a figure without cases is None.
    """
    groups: dict[tuple[str, str], list[Opinion]] = {}
    for opinion in found:
        for tool in ("all", opinion.tool):
            groups.setdefault((opinion.stage, tool), []).append(opinion)
    table: dict[str, dict[str, dict[str, object]]] = {}
    for (stage, tool), votes in groups.items():
        table.setdefault(stage, {})[tool] = _figures(votes, seed)
    return table


def _figures(votes: list[Opinion], seed: int) -> dict[str, object]:
    sources = {name: k for k, name in enumerate(dict.fromkeys(v.source for v in votes))}
    owner = np.array([sources[v.source] for v in votes])
    true, passed = np.array([v.true for v in votes]), np.array([not v.reason for v in votes])

    def share(of: np.ndarray, among: np.ndarray) -> dict[str, object] | None:
        if not among.any():
            return None
        top, bottom = (np.bincount(owner, weights=w, minlength=len(sources)) for w in (of & among, among))
        return _rounded(interval(ratio_of(top, bottom), draw_weights(len(sources), RESAMPLES, seed), int(among.sum())))

    kinds = Counter(v.kind for v in votes)
    return {
        "n": len(votes),
        "precision": share(true, passed),
        "recall": share(passed, true),
        "passed_of_false": share(passed, ~true),
        "passed_by_kind": {
            kind: [sum(v.kind == kind and not v.reason for v in votes), n] for kind, n in sorted(kinds.items())
        },
        "reasons": dict(sorted(Counter(v.reason for v in votes if v.reason).items())),
    }


def _rounded(found: Interval) -> dict[str, object]:
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in found.model_dump().items()}


def markdown(table: Mapping[str, Mapping[str, Mapping[str, object]]]) -> str:
    """The table as Markdown: a row per stage and tool."""
    lines = ["| stage | tool | n | precision | recall | passes of the faultless |", "|---|---|---|---|---|---|"]
    for stage, tools in table.items():
        for tool, row in tools.items():
            cells = (_cell(row[key]) for key in ("precision", "recall", "passed_of_false"))
            lines.append(f"| {stage} | {tool} | {row['n']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: object) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if isinstance(found, dict) else "-"
