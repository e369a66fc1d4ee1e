"""The curation stage: pairs in, the same pairs with verdicts, labels, explanations and captions out.

Every pair stays, the rejected ones with their reasons. Resumable per chunk of pairs; beside the data set lie
``calls.parquet``, ``funnel.json``, ``audit.json`` and ``report.html``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

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
from artiagent.records import CheckpointRef, DatasetRef, Pair, Scene
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows
from artiagent.vlm import load_vlm
from artiagent.vlm.calls import keep_calls, noted
from artiagent.vlm.protocol import Vlm
from artiagent.vlm.template import TemplateVlm

SETTING = "curation.vlm"
JUDGING = ("presence", "judge")  # tasks; the others are writing


def curate(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef, out: Path
) -> DatasetRef:
    """Filter, judge and explain every pair; audit what is left for shortcuts.

    Args:
        section: windows, limits, judge and writer.
        pairs: data set of Pair records with images "clean" and "artifact".
        scenes: data set of Scene records the pairs were made from.
        judge: vision-language model folder; loaded only if the section asks for it.
        out: folder of the curated data set (kind "curated").
    """
    ref = open_dataset(out)
    if ref is None:
        writer: DatasetWriter[Pair] = DatasetWriter(out, "curated", ("clean", "artifact"))
        vlm = _curate_pending(section, pairs, scenes, judge, writer)
        ref = writer.finish(keep_calls(writer, vlm))
    return summarise(section, ref, made_by(section))


def _curate_pending(
    section: CurationSection, pairs: DatasetRef, scenes: DatasetRef, judge: CheckpointRef, writer: DatasetWriter[Pair]
) -> Vlm | None:
    """Curate what is not there yet. Returns who was asked, if anybody."""
    known = {
        row.key: SceneFacts(row.record.caption, tuple(e.name for e in row.record.entities))
        for row in read_rows(scenes, Scene, images=())
    }
    curator: Curator | None = None
    accepted = 0
    with tqdm(desc="curate", total=pairs.rows, unit="pair") as bar:
        for index, rows in enumerate(_chunks(pairs, section.window)):
            if (name := f"{index:07d}") not in writer:
                curator = curator or Curator.load(section, judge)
                cases = curator.curate([_case(row) for row in rows], known)
                decided = [_finished(row, case) for row, case in zip(rows, cases, strict=True)]
                writer.write(name, decided, noted(call for case in cases for call in case.calls))
                accepted += sum(row.record.accepted for row in decided)
            bar.update(len(rows))
            bar.set_postfix(accepted=accepted, refresh=False)
    return curator.vlm if curator else None


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


def _chunks(pairs: DatasetRef, size: int) -> Iterator[list[Row[Pair]]]:
    chunk: list[Row[Pair]] = []
    for row in read_rows(pairs, Pair):
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _case(row: Row[Pair]) -> Case:
    return Case(row.record, decode(row.images["clean"]), decode(row.images["artifact"]))


def _finished(row: Row[Pair], case: Case) -> Row[Pair]:
    """The row with its record; both sides are encoded anew if, and only if, pixels were put back."""
    images = row.images
    if case.pair.pasted_back:
        image_format = "png" if images["clean"].startswith(b"\x89PNG") else "jpeg"
        images = {"clean": encode(case.clean, image_format), "artifact": encode(case.image, image_format)}
    return Row(row.key, case.pair, images)
