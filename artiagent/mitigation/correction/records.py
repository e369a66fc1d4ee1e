"""What a correction leaves behind: every repainting with both judges' scores and why it was kept or not."""

from __future__ import annotations

from typing import Literal

from artiagent.records import Box, Mask, Record

Source = Literal["vlm", "badness", "grown"]
SOURCES: tuple[Source, ...] = Source.__args__
Outcome = Literal["corrected", "clean", "kept", "unread"]
CORRECTED, CLEAN, KEPT, UNREAD = Outcome.__args__  # kept: artifacts were found, but no repainting was preferred
BETTER = "both judges prefer it"


class Place(Record):
    """A region to repaint: the union of ``boxes``, dilated, in pixels of the image; ``source`` proposed it."""

    source: Source
    boxes: tuple[Box, ...]


class Candidate(Record):
    """One repainting. Scores are higher for better; None where a judge was not asked any more."""

    place: Place
    seed: int
    verifier: float | None = None  # reward
    vlm: float | None = None  # P(no artifacts)
    why: str  # `BETTER`, or what speaks against it


class Round(Record):
    """One turn of the loop on one image."""

    located: tuple[Box, ...] = ()  # what the VLM answered
    location_status: str  # evaluation.parsing.Status of that answer
    caption: str  # what the repainted image should show
    notes: tuple[str, ...] = ()  # what was skipped, limited or failed
    verifier: float  # of the image before the round
    vlm: float
    candidates: tuple[Candidate, ...] = ()
    chosen: int | None = None  # index of the candidate that was applied


class Correction(Record):
    """One image and what became of it; ``region`` covers every pixel that may differ from the input."""

    image: str
    image_sha256: str = ""  # of the file's bytes
    width: int = 0
    height: int = 0
    outcome: Outcome
    verdict: float | None = None  # P(Yes) of the VLM about the input
    verdict_after: float | None = None
    verifier: float | None = None  # reward of the input
    verifier_after: float | None = None
    region: Mask | None = None  # None: unchanged
    rounds: tuple[Round, ...] = ()
    calls: int = 0  # of the inpainter's transformer
    reason: str = ""  # why the image was not read

    @property
    def applied(self) -> tuple[Place, ...]:
        """The places that were repainted, in turn."""
        return tuple(turn.candidates[turn.chosen].place for turn in self.rounds if turn.chosen is not None)
