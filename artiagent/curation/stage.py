"""The curation stage: pairs in, the same pairs with verdicts, labels, explanations and captions out.

Every pair stays, the rejected ones with their reasons. Resumable per window of pairs, by any number of processes;
beside the data set lie ``calls.parquet``, ``funnel.json``, ``audit.json`` and ``report.html``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

from pydantic import ConfigDict
from tqdm import tqdm

from artiagent.config import CurationSection
from artiagent.curation.case import Case
from artiagent.curation.explain import SceneFacts, explain
from artiagent.curation.judge import load_judge
from artiagent.curation.perceptual import load_metric
from artiagent.curation.summary import made_by, summarise
from artiagent.curation.verdicts import Examiner
from artiagent.images import decode, encode
from artiagent.licences import with_model
from artiagent.records import CheckpointRef, DatasetRef, Pair, Record, Scene, stable_hash
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows
from artiagent.vlm import load_vlm
from artiagent.vlm.calls import Ledger, keep_calls
from artiagent.vlm.protocol import Vlm
from artiagent.vlm.template import TemplateVlm

SETTING = "curation.vlm"
JUDGING = ("presence", "judge")  # tasks; the others are writing
_AHEAD = 2048  # pairs whose scenes are known at a time


class _Head(Record):
    """What is asked of a pair before its images are read."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    source_id: str


def curate(
    section: CurationSection,
    pairs: DatasetRef,
    scenes: DatasetRef,
    judge: CheckpointRef,
    out: Path,
    shard: Shard | None = None,
) -> DatasetRef:
    """Filter, judge and explain every pair; audit what is left for shortcuts.

    Args:
        section: windows, limits, judge and writer.
        pairs: data set of Pair records with images "clean" and "artifact".
        scenes: data set of Scene records the pairs were made from.
        judge: vision-language model folder; loaded only if the section asks for it.
        out: folder of the curated data set (kind "curated").
        shard: curate this shard's block of windows and return the part; a call without one joins the parts, or curates
            whatever is in none, and audits. Joining loads no model.

    Raises ValueError for pairs without a scene, VlmUnavailable when a server does not answer, StoreError when ``out``
    cannot be written (finished windows stay) or was begun with other data or settings.
    """
    ref = open_dataset(out)
    if ref is None:
        stamp = _stamp(section, pairs, scenes, judge)
        writer: DatasetWriter[Pair] = DatasetWriter(out, "curated", ("clean", "artifact"), stamp, shard)
        _curate_due(section, pairs, scenes, judge, writer)
        ref = writer.finish(keep_calls(writer)) if shard is None else writer.seal()
    return summarise(section, ref, made_by(section)) if shard is None else ref


def _stamp(section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef) -> str:
    """Identity of the verdicts: settings and inputs, and the window: a batch is what falls into it."""
    return stable_hash(section.digest(), section.window, pairs.digest, scenes.digest, judge.sha256, length=12)


def _curate_due(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef, writer: DatasetWriter[Pair]
) -> None:
    """Write the writer's share of the windows, as far as they are not there yet."""
    windows = -(-pairs.rows // section.window)
    share = writer.shard.part(windows) if writer.shard else range(windows)
    due = [index for index in share if _batch(index) not in writer]
    if not due:
        return
    curator = Curator.load(section, judge)
    ledger = Ledger(curator.vlm)
    accepted = 0
    with tqdm(desc="curate", total=len(share), initial=len(share) - len(due), unit="window") as bar:
        for run in _runs(due, max(1, _AHEAD // section.window)):
            rows = range(run.start * section.window, min(run.stop * section.window, pairs.rows))
            known = _facts(pairs, scenes, rows)
            stream = read_rows(pairs, Pair, rows=rows)
            for index in run:
                window = list(islice(stream, section.window))
                cases = curator.curate([_case(row) for row in window], known)
                decided = [_finished(row, case) for row, case in zip(window, cases, strict=True)]
                writer.write(_batch(index), decided, ledger.note(call for case in cases for call in case.calls))
                accepted += sum(row.record.accepted for row in decided)
                bar.set_postfix(accepted=accepted, refresh=False)
                bar.update()


def _batch(window: int) -> str:
    return f"{window:07d}"


def _runs(windows: list[int], most: int) -> Iterator[range]:
    """The windows, which ascend, as ranges of at most ``most``."""
    start = windows[0]
    for this, following in pairwise([*windows, -1]):
        if following != this + 1 or following - start == most:
            yield range(start, this + 1)
            start = following


def _facts(pairs: DatasetRef, scenes: DatasetRef, rows: range) -> dict[str, SceneFacts]:
    """What the writer needs of the scenes that the pairs ``rows`` were made from."""
    wanted = {row.record.source_id for row in read_rows(pairs, _Head, images=(), rows=rows)}
    return {
        row.key: SceneFacts(row.record.caption, tuple(e.name for e in row.record.entities))
        for row in read_rows(scenes, Scene, images=(), wanted=wanted)
    }


@dataclass(frozen=True)
class Curator:
    """Filters, judge and writer, loaded once."""

    section: CurationSection
    examiner: Examiner
    vlm: Vlm | None  # who judges, and writes if the section says so
    model: str  # folder, or the server's name, of who judges and writes

    @classmethod
    def load(cls, section: CurationSection, base: CheckpointRef) -> Curator:
        """What the section asks for; one model serves judge and writer."""
        asked = section.judge != "none" or section.explain == "vlm"
        vlm = load_vlm(section.vlm, base, SETTING) if asked else None
        examiner = Examiner(section, load_metric(section), load_judge(section, vlm))
        return cls(section, examiner, vlm, section.vlm.model or base.uri)

    def curate(self, cases: list[Case], scenes: Mapping[str, SceneFacts]) -> list[Case]:
        """Verdicts, words, and in every record what was asked of whom, under which licence."""
        writer = self.vlm if self.section.explain == "vlm" and self.vlm else TemplateVlm()
        explained = explain(writer, self.section.vlm, self.examiner.decide(cases), scenes)
        return [self._licensed(case.stamped()) for case in explained]

    def _licensed(self, case: Case) -> Case:
        pair = case.pair
        for role in sorted({"judge" if call.task in JUDGING else "writer" for call in case.calls}):
            pair = with_model(pair, role, self.model)
        return replace(case, pair=pair)


def _case(row: Row[Pair]) -> Case:
    return Case(row.record, decode(row.images["clean"]), decode(row.images["artifact"]))


def _finished(row: Row[Pair], case: Case) -> Row[Pair]:
    """The row with its record; both sides are encoded anew if, and only if, pixels were put back."""
    images = row.images
    if case.pair.pasted_back:
        image_format = "png" if images["clean"].startswith(b"\x89PNG") else "jpeg"
        images = {"clean": encode(case.clean, image_format), "artifact": encode(case.image, image_format)}
    return Row(row.key, case.pair, images)
