"""What an audit keeps of every image, and the figures that it ends with.

Shares are of the images that were answered; an image that could not be read or got no answer is counted, never guessed.
"""

from __future__ import annotations

from pydantic import Field

from artiagent.inspection.findings import Inspection
from artiagent.records import Interval, Record

UNNAMED = "unnamed"  # type of a flagged image whose explanation names none


class Audited(Inspection):
    """One image of a generator and what was said of it. ``image`` is its name within the generator's images."""

    generator: str
    prompt: str = ""  # "" where a folder does not tell
    seed: int | None = None  # of a drawn image
    fault: str = ""  # type that the explanation names first, UNNAMED, or "" of an image that is not flagged
    entity: str = ""
    part: str = ""
    deviations: tuple[str, ...] | None = None  # parts that the independent counter finds wrong; None: it cannot tell


class Detector(Record):
    """What the VLM's verdicts are worth on a benchmark whose truth is known."""

    n: int
    n_faulty: int
    sensitivity: Interval
    specificity: Interval


class Threshold(Record):
    """Rates at another P(Yes); ``corrected`` by benchmark, as in GeneratorRates."""

    threshold: float
    rate: Interval
    corrected: dict[str, Interval] = Field(default_factory=dict)


class GeneratorRates(Record):
    """One generator's figures; intervals resample prompts. ``corrected``: benchmark -> prevalence by Rogan and Gladen,
    without those whose sensitivity the rate itself refutes.

    ``by_fault`` and ``by_part`` are shares of all answered images, ``by_entity`` of those whose prompt names the entity
    (of all where there are no prompts). ``parts`` is the rate of the independent counter.
    """

    images: int  # that were answered
    prompts: int  # units that are resampled: prompts, and images without one
    unread: int
    unanswered: int
    rate: Interval
    corrected: dict[str, Interval] = Field(default_factory=dict)
    by_fault: dict[str, Interval] = Field(default_factory=dict)
    by_entity: dict[str, Interval] = Field(default_factory=dict)
    by_part: dict[str, Interval] = Field(default_factory=dict)
    parts: Interval | None = None
    thresholds: tuple[Threshold, ...] = ()


class Contrast(Record):
    """The first generator minus the second; on the ``prompts`` that both drew where ``paired``."""

    paired: bool
    prompts: int
    rate: Interval
    corrected: dict[str, Interval] = Field(default_factory=dict)
    by_fault: dict[str, Interval] = Field(default_factory=dict)
    parts: Interval | None = None


class AuditReport(Record):
    """``audit.json``."""

    vlm: str
    vlm_sha256: str
    threshold: float
    resamples: int
    detector: dict[str, Detector]  # by benchmark, the primary first
    generators: dict[str, GeneratorRates]
    contrasts: dict[str, Contrast]  # "first - second"
    sha256: dict[str, str]  # of the generators
