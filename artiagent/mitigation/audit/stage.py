"""Stage "audit": images of generators, what the fine-tuned VLM says of each, and the rates of artifacts.

Knows order, resume and what is kept. Images are drawn or read in batches, asked about at once and kept with the
answers, so that a killed run neither draws nor asks twice, nor one with another generator beside. The folder holds
``audit.json`` (an AuditReport), ``images.parquet`` (every image, flat, for other tools) and ``audit.html``; below
``generators/`` lie the data sets that all three are made from.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from artiagent.config import AuditSection, BenchmarkSet, EvaluationSection
from artiagent.evaluation.benchmarks import benchmark_sha256, read_truth
from artiagent.evaluation.stage import predict
from artiagent.inspection.askers import Asker, open_asker
from artiagent.inspection.findings import ARTIFACTS, Asking, inspect_pictures
from artiagent.mitigation.audit.naming import named
from artiagent.mitigation.audit.rates import Judged, contrasts_of, detector_of, rates_of
from artiagent.mitigation.audit.records import Audited, AuditReport
from artiagent.mitigation.audit.sources import Shot, Source, open_source
from artiagent.mitigation.audit.tables import write_images
from artiagent.mitigation.judges import open_parts
from artiagent.records import CheckpointRef, DatasetRef, Prediction, stable_hash
from artiagent.report.audit import write_page
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows, write_atomic

if TYPE_CHECKING:
    from artiagent.nano.anatomy import PartJudge

KIND, REPORT, IMAGES_OF = "audit", "audit.json", "generators"
LEAST_OF_CLASS = 20  # clean and faulty images of a benchmark below which it says too little of a detector


def audit(
    section: AuditSection, evaluation: EvaluationSection, prompts: Sequence[str], generators: Sequence[CheckpointRef],
    vlm: CheckpointRef, parser: CheckpointRef | None, out: Path, benchmarks: Sequence[BenchmarkSet] = (),
    asker: Asker | None = None,
) -> DatasetRef:  # fmt: skip
    """Look at every generator's images (rows Audited with the column "image", key = ``generator/image``) and count.

    Args:
        section: how much is drawn, threshold, resampling.
        evaluation: how the VLM is asked.
        prompts: of the generators that draw here; folders of images bring their own, or none.
        generators: of `sources.place_refs`, with names of their own.
        vlm: fine-tuned to detect artifacts.
        parser: nano-parser's folder, the independent counter of parts; None: not asked.
        out: folder of all that is written.
        benchmarks: on which the VLM's sensitivity and specificity are measured; without any, rates stay uncorrected.
        asker: the VLM where it is loaded already.

    Raises ValueError when a generator has nothing to look at, or none of its images was answered.
    """
    sources = {ref.name: open_source(ref, section, prompts) for ref in generators}
    for ref in generators:
        if not sources[ref.name].shots:
            raise ValueError(f"{ref.uri}: no image to look at; raise the limit or choose another folder")
    asking = Asking(evaluation, section.threshold)
    who = _Judges(asking, vlm, parser, asker)
    with tqdm(desc="audit", unit="image", total=sum(len(source.shots) for source in sources.values())) as progress:
        sets = [_look(ref, sources[ref.name], section, who, out / IMAGES_OF, progress) for ref in generators]
    rows = [row.record for done in sets for row in read_rows(done, Audited, images=())]
    judged = _judged(section, evaluation, vlm, benchmarks, out)
    report = report_of(section, rows, judged, vlm, generators)
    write_atomic(out / REPORT, report.model_dump_json(indent=1).encode())
    write_images(sets, out)
    write_page(report, sets, rows, out, section.seed)
    return DatasetRef(
        kind=KIND, uri=str(out), digest=stable_hash(KIND, *(done.digest for done in sets), length=64),
        rows=len(rows), summary=_headline(report),
    )  # fmt: skip


def report_of(
    section: AuditSection, rows: Sequence[Audited], judged: dict[str, Judged], vlm: CheckpointRef,
    generators: Sequence[CheckpointRef],
) -> AuditReport:  # fmt: skip
    """All figures."""
    own = {ref.name: [row for row in rows if row.generator == ref.name] for ref in generators}
    return AuditReport(
        vlm=vlm.name,
        vlm_sha256=vlm.sha256,
        threshold=section.threshold,
        resamples=section.resamples,
        detector={name: detector_of(*known, section) for name, known in judged.items()},
        generators={name: rates_of(found, judged, section) for name, found in own.items()},
        contrasts=contrasts_of(own, judged, section),
        sha256={ref.name: ref.sha256 for ref in generators},
    )


class _Judges:
    """The VLM and the counter of parts, loaded when the first image wants them."""

    def __init__(self, asking: Asking, vlm: CheckpointRef, parser: CheckpointRef | None, asker: Asker | None) -> None:
        self.asking, self._vlm, self._parser, self._asker = asking, vlm, parser, asker
        self.stamp = stable_hash(asking.stamp(vlm), parser.sha256 if parser else "")

    @functools.cached_property
    def asker(self) -> Asker:
        return self._asker or open_asker(self._vlm, self.asking.section)

    @functools.cached_property
    def parts(self) -> PartJudge | None:
        return open_parts(self._parser) if self._parser else None

    def deviations(self, images: Sequence[np.ndarray | None], prompts: Sequence[str]) -> list[tuple[str, ...] | None]:
        """What the counter finds wrong; None where it cannot tell: no image, no prompt that it knows, another size."""
        found: list[tuple[str, ...] | None] = [None] * len(images)
        if (parts := self.parts) is None:
            return found
        known = [k for k, image in enumerate(images) if image is not None and parts.can_judge(image, prompts[k])]
        judged = parts.deviations([images[k] for k in known], [prompts[k] for k in known]) if known else []
        for k, wrong in zip(known, judged, strict=True):
            found[k] = tuple(str(one) for one in wrong)
        return found


def _look(
    generator: CheckpointRef, source: Source, section: AuditSection, who: _Judges, folder: Path, progress: tqdm
) -> DatasetRef:
    """One generator's images with all that is said of them, in a data set of its own: another generator beside it
    leaves it as it is."""
    drawn = section.model_dump_json(include={"images", "steps", "guidance", "size", "seed", "batch", "dtype"})
    shots = stable_hash(*map(str, source.shots))
    stamp = stable_hash(generator.name, generator.sha256, drawn, shots, who.stamp, length=20)
    if (done := open_dataset(folder / stamp, stamp)) is not None:
        progress.update(len(source.shots))
        return done
    writer = DatasetWriter[Audited](folder / stamp, KIND, images=("image",), stamp=stamp)
    for index, batch in enumerate(_batches(source.shots, section.batch)):
        if (key := f"{index:07d}") not in writer:
            writer.write(key, _answered(generator.name, source, batch, who))
        progress.update(len(batch))
    source.release()
    return writer.finish()


def _answered(name: str, source: Source, batch: Sequence[Shot], who: _Judges) -> list[Row[Audited]]:
    pictures = source.pictures(batch)
    found = inspect_pictures([picture for picture, _ in pictures], who.asker, who.asking)
    counted = who.deviations([picture.pixels for picture, _ in pictures], [shot.prompt for shot in batch])
    rows = []
    for shot, (_, data), one, wrong in zip(batch, pictures, found, counted, strict=True):
        told = named(one.explanation)._asdict() if one.verdict == ARTIFACTS else {}
        record = Audited(
            **one.model_dump(), generator=name, prompt=shot.prompt, seed=shot.seed, deviations=wrong, **told
        )
        rows.append(Row(f"{name}/{shot.name}", record, {"image": data}))
    return rows


def _judged(
    section: AuditSection, evaluation: EvaluationSection, vlm: CheckpointRef, benchmarks: Sequence[BenchmarkSet],
    out: Path,
) -> dict[str, Judged]:  # fmt: skip
    """Benchmark -> truth and P(Yes); those with too few images of a class are left out."""
    asked = evaluation.model_copy(update={"tasks": ("detection",)})
    judged: dict[str, Judged] = {}
    for benchmark in benchmarks:
        truth = {item.item_id: item.faulty for item in read_truth(benchmark, asked.limit)}
        faulty = sum(truth.values())
        if min(faulty, len(truth) - faulty) < LEAST_OF_CLASS:
            tqdm.write(
                f"{benchmark.name}: {faulty} faulty and {len(truth) - faulty} clean images, too few to know the "
                f"detector by (at least {LEAST_OF_CLASS} each); rates are not corrected by it"
            )
            continue
        folder = out / "detector" / stable_hash(benchmark.name, benchmark_sha256(benchmark), vlm.sha256, length=12)
        answers = read_rows(predict(asked, vlm, [benchmark], folder, vlm.name), Prediction)
        scores = {row.record.item_id: row.record.score for row in answers}
        known = [name for name in truth if scores[name] is not None]
        judged[benchmark.name] = np.array([truth[n] for n in known]), np.array([scores[n] for n in known])
    return judged


def _batches(shots: Sequence[Shot], size: int) -> Iterator[list[Shot]]:
    stream = iter(shots)
    while batch := list(islice(stream, size)):
        yield batch


def _headline(report: AuditReport) -> dict[str, float]:
    return {f"rate:{name}": round(found.rate.value, 4) for name, found in report.generators.items()}
