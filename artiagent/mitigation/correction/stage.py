"""Stage "correct": a benchmark's images, faulty and clean, through the loop, and figures by judges it never asked.

Knows resume and who judges the outcome. Does not know how an image is corrected (`loop`) or what a figure means
(`figures`).
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from artiagent.config import BenchmarkSet, CorrectionSection, EvaluationSection
from artiagent.evaluation.benchmarks import BenchmarkItem, benchmark_sha256, read_items, read_truth
from artiagent.images import decode, encode
from artiagent.inspection.findings import Picture
from artiagent.mitigation.correction.figures import Judged, figures_of
from artiagent.mitigation.correction.loop import Corrected, correct_images
from artiagent.mitigation.correction.panel import Models, Panel, open_panel
from artiagent.mitigation.judges import Judge, open_parts
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows, write_atomic

if TYPE_CHECKING:
    from artiagent.nano.anatomy import PartJudge

KIND, FIGURES, PAGE = "corrected", "correction.json", "correction.html"


def correct(
    section: CorrectionSection,
    evaluation: EvaluationSection,
    benchmark: BenchmarkSet,
    inpainter: CheckpointRef,
    reward: CheckpointRef,
    vlm: CheckpointRef,
    parser: CheckpointRef | None,
    out: Path,
) -> DatasetRef:
    """Correct a benchmark's images; rows Judged, images "before" and "after", key = item id.

    ``correction.json`` and ``correction.html`` beside the rows hold the figures. The parser, where there is one, tells
    whether an image is fixed; the verifier that does not steer (`section.member`) judges too. Resumes by windows.
    Raises ValueError when ``out`` holds rows of other images, models or settings.
    """
    used = (inpainter, reward, vlm, *([parser] if parser is not None else []))
    identity = (section.digest(), evaluation.digest(), benchmark_sha256(benchmark), *(ref.sha256 for ref in used))
    stamp = stable_hash(KIND, *identity, length=20)
    if (complete := open_dataset(out, stamp)) is None:
        writer: DatasetWriter[Judged] = DatasetWriter(out, KIND, ("before", "after"), stamp)
        panel = open_panel(section, evaluation, Models(inpainter, reward, vlm))
        third = _third(section, reward)
        parts = open_parts(parser) if parser is not None else None
        total = len(read_truth(benchmark, section.limit))
        items = read_items(benchmark, section.limit)
        with tqdm(desc=f"correct {benchmark.name}", unit="image", total=total) as progress:
            for index in itertools.count():
                if not (window := list(itertools.islice(items, section.window))):
                    break
                if (key := f"{index:06d}") not in writer:
                    writer.write(key, _window(section, panel, third, parts, window))
                progress.update(len(window))
        complete = writer.finish({"benchmark": benchmark.name})
    about = {"benchmark": benchmark.name, "inpainter": inpainter.name, "reward": reward.name, "vlm": vlm.name}
    return complete.model_copy(update={"summary": {**complete.summary, **_reported(section, complete, about, out)}})


def _third(section: CorrectionSection, reward: CheckpointRef) -> Judge | None:
    """The verifier of the ensemble that does not steer; None where all of them do."""
    from artiagent.learning.reward import open_reward

    return None if section.member is None else open_reward(reward, 1 - section.member, section.device)


def _window(
    section: CorrectionSection,
    panel: Panel,
    third: Judge | None,
    parts: PartJudge | None,
    window: Sequence[tuple[BenchmarkItem, bytes]],
) -> list[Row[Judged]]:
    images = [decode(data) for _, data in window]
    pictures = [
        Picture(item.item_id, hashlib.sha256(data).hexdigest(), image)
        for (item, data), image in zip(window, images, strict=True)
    ]
    found = correct_images(section, panel, pictures)
    after = [one.image for one in found]
    thirds = [third(images).tolist(), third(after).tolist()] if third is not None else [[None] * len(window)] * 2
    passed = _passed(parts, panel, [item for item, _ in window], images, after)
    return [
        Row(
            item.item_id,
            Judged(
                item_id=item.item_id, faulty=item.faulty, fault=item.fault, correction=one.record,
                outside_identical=identical_outside(image, one), third_before=third_before, third_after=third_after,
                **dict(zip(("passed_before", "passed_after", "passed_clean"), counted, strict=True)),
            ),
            {"before": encode(image), "after": encode(one.image)},
        )
        for (item, _), image, one, third_before, third_after, counted in zip(
            window, images, found, *thirds, passed, strict=True
        )
    ]  # fmt: skip


def identical_outside(before: np.ndarray, one: Corrected) -> bool:
    """Whether every pixel outside the recorded region is the input's."""
    changed = (before != one.image).any(axis=2)
    return not (changed if one.record.region is None else changed & ~one.record.region.decode()).any()


def _passed(
    parts: PartJudge | None,
    panel: Panel,
    items: Sequence[BenchmarkItem],
    before: Sequence[np.ndarray],
    after: Sequence[np.ndarray],
) -> list[tuple[bool | None, ...]]:
    """Per item whether parts are the clean scene's: of the image before, after, and of the clean scene once encoded."""
    from artiagent.nano.twins import clean_scene

    scenes = [clean_scene(item) if parts is not None else None for item in items]
    known = [k for k, scene in enumerate(scenes) if scene is not None]
    told: list[tuple[bool | None, ...]] = [(None, None, None)] * len(items)
    if known:
        clean = [scenes[k] for k in known]
        encoded = panel.inpainter.reencode(np.stack(clean))
        sides = [[before[k] for k in known], [after[k] for k in known], list(encoded)]
        for k, *counted in zip(known, *(parts.restored(side, clean).tolist() for side in sides), strict=True):
            told[k] = tuple(counted)
    return told


def _reported(section: CorrectionSection, rows: DatasetRef, about: dict[str, str], out: Path) -> dict[str, float | int]:
    """Write figures and page where they are missing; returns what a run's summary shows."""
    from artiagent.report.correction import render_correction

    if not (out / PAGE).is_file():
        judged = [row.record for row in read_rows(rows, Judged, ())]
        figures = {**figures_of(judged, section.resamples, section.seed), "about": about}
        write_atomic(out / FIGURES, json.dumps(figures, indent=1).encode())
        write_atomic(out / PAGE, render_correction(figures, rows).encode())
    scores = json.loads((out / FIGURES).read_text())["scores"]
    return {f"{name}.{key}": value for name, found in scores.items() for key, value in found.items()}
