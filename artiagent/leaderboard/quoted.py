"""The paper's Table 3 as data, and beside which of our tables its rows may stand.

Knows the published benchmarks by layout and size. Does not know any prediction: every figure here is quoted, without an
interval, and was measured by others under conventions that ``PaperTable.conventions`` names.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from artiagent.records import Record

SHOWN = ("accuracy", "macro_f1", "iou", "pixel_f1", "rouge_l", "css")


class Published(Record):
    """How a table of ours is recognised as one about a published benchmark."""

    layout: str
    images: int
    faulty: int | None  # None: the paper does not say
    names_faults: bool | None = None  # whether its images carry a fault type; None: either way


class QuotedRow(Record):
    """A line of the table: benchmark -> metric -> value as printed."""

    model: str
    scores: dict[str, dict[str, float]]
    training_samples: int | None = None  # of ArtiAgent; None: not trained on any
    in_domain: tuple[str, ...] = ()  # benchmarks whose training split the model has seen
    note: str = ""

    def comparable(self, benchmark: str) -> bool:
        """Whether its localization follows our convention: no pixel F1 lies below its own IoU, except where an image
        without region and answer was counted as 1."""
        scores = self.scores.get(benchmark, {})
        return "iou" not in scores or scores["iou"] <= scores["pixel_f1"]

    def remarks(self, benchmark: str) -> tuple[str, ...]:
        """What a reader must know before comparing this row."""
        found = [self.note] if self.note else []
        if benchmark in self.in_domain:
            found.append("trained on this benchmark's training split")
        if not self.comparable(benchmark):
            found.append("IoU above F1: empty answers on images without a region counted as 1; not comparable")
        return tuple(found)


class PaperTable(Record):
    """``paper.json``."""

    source: str
    metrics: dict[str, tuple[str, str]]  # task -> the two metrics of its columns
    benchmarks: dict[str, Published]
    conventions: tuple[str, ...]
    one_class_detector: dict[str, float]  # metric -> value of whoever always gives the same answer on ArtiBench
    noise: float  # differences below it on 1,000 images say nothing
    rows: tuple[QuotedRow, ...]

    def published_as(self, layout: str, images: int, faulty: int, names_faults: bool) -> str:
        """Name of the published benchmark that a table of ours is about, "" for none.

        The layout of ArtiBench also holds other sets, ArtiBench-nano among them: size, balance and the fault types that
        the published file does not have tell them apart. A part of a benchmark is not the benchmark.
        """
        for name, known in self.benchmarks.items():
            same_size = known.images == images and known.faulty in (None, faulty)
            if known.layout == layout and same_size and known.names_faults in (None, names_faults):
                return name
        return ""

    def about(self, benchmark: str) -> tuple[QuotedRow, ...]:
        """Rows with a figure on this published benchmark, in the paper's order."""
        return tuple(row for row in self.rows if row.scores.get(benchmark))


@cache
def paper_table() -> PaperTable:
    """The table that ships with the library."""
    return PaperTable.model_validate_json((files("artiagent.leaderboard") / "paper.json").read_bytes())
