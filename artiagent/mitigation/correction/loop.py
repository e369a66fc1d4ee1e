"""The loop of correction: locate, describe, repaint, judge, keep what both judges prefer; bounded rounds.

Works on a window of images in step, so that every model is asked in batches. An image leaves the loop once the VLM
calls it clean. A repainting is applied only where verifier and VLM both prefer it by their margins. Of those that are,
the one with the largest sum of reward and log odds of the VLM's No is taken: both are log odds of being clean, so that
the sum is their product as independent witnesses. Pixels outside the repainted region are the input's: the painted view
is blended in with an alpha that is zero there (`synthesis.compose.blend`).

Does not know files, benchmarks or how a judge works.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from artiagent.config import CorrectionSection
from artiagent.grid import union_mask
from artiagent.inspection.findings import Picture
from artiagent.mitigation.correction.panel import Panel
from artiagent.mitigation.correction.places import propose
from artiagent.mitigation.correction.records import (
    BETTER,
    CLEAN,
    CORRECTED,
    KEPT,
    UNREAD,
    Candidate,
    Correction,
    Place,
    Round,
)
from artiagent.mitigation.correction.windows import put_back, shown, window_of
from artiagent.mitigation.inpainters import Inpainter
from artiagent.mitigation.judges import Judge
from artiagent.records import Box, Mask, stable_hash
from artiagent.synthesis.compose import blend

_PIXELS = 16_000_000  # of composed images that are judged together
_MOST = 64  # images that are judged together
_LEAST = 1e-4  # probability that still counts


class Corrected(NamedTuple):
    """The record and the image, uint8 [H, W, 3]; None where it was not read."""

    record: Correction
    image: np.ndarray | None


class Interrupted(KeyboardInterrupt):
    """Ctrl-C inside the loop; ``found`` holds the best so far of every image."""

    def __init__(self, found: list[Corrected]) -> None:
        super().__init__("interrupted; the best so far is kept")
        self.found = found


@dataclass
class _Work:
    """An image on its way: the best so far with its scores, and what may differ from the input by now."""

    picture: Picture
    image: np.ndarray
    verifier: float
    vlm: float
    before: tuple[float, float]
    changed: np.ndarray
    rounds: list[Round] = field(default_factory=list)
    calls: int = 0


@dataclass
class _Try:
    """One repainting: what is shown to the inpainter, and what came back."""

    owner: int
    place: Place
    seed: int
    region: np.ndarray
    window: Box
    painted: np.ndarray | None = None
    verifier: float | None = None
    vlm: float | None = None
    why: str = ""


def correct_images(section: CorrectionSection, panel: Panel, pictures: Sequence[Picture]) -> list[Corrected]:
    """Correct a window of images; one result each, in order.

    Raises Interrupted (a KeyboardInterrupt) with the results so far.
    """
    read = [picture for picture in pictures if picture.pixels is not None]
    images = [picture.pixels for picture in read]
    scores = zip(_judge(panel.verifier, images), _judge(panel.vlm, images), strict=True)
    works = [
        _Work(one, one.pixels, *both, both, np.zeros(one.pixels.shape[:2], dtype=bool))
        for one, both in zip(read, scores, strict=True)
    ]
    try:
        for number in range(section.rounds):
            if active := [work for work in works if 1 - work.vlm >= section.threshold]:
                _turn(section, panel, active, number)
    except KeyboardInterrupt as stop:
        raise Interrupted(_results(section, pictures, works)) from stop
    return _results(section, pictures, works)


def _results(section: CorrectionSection, pictures: Sequence[Picture], works: Sequence[_Work]) -> list[Corrected]:
    done = iter(works)
    return [
        _unread(one) if one.pixels is None else Corrected(_record(section, work := next(done)), work.image)
        for one in pictures
    ]


def _unread(picture: Picture) -> Corrected:
    told = {"image": picture.name, "image_sha256": picture.sha256, "reason": picture.reason}
    return Corrected(Correction(outcome=UNREAD, **told), None)


def _record(section: CorrectionSection, work: _Work) -> Correction:
    verifier, vlm = work.before
    changed = bool(work.changed.any())
    return Correction(
        image=work.picture.name,
        image_sha256=work.picture.sha256,
        width=work.image.shape[1],
        height=work.image.shape[0],
        outcome=CORRECTED if changed else KEPT if 1 - vlm >= section.threshold else CLEAN,
        verdict=1 - vlm,
        verdict_after=1 - work.vlm,
        verifier=verifier,
        verifier_after=work.verifier,
        region=Mask.encode(work.changed) if changed else None,
        rounds=tuple(work.rounds),
        calls=work.calls,
    )


def _turn(section: CorrectionSection, panel: Panel, works: Sequence[_Work], number: int) -> None:
    """One round on all images that are still faulty."""
    images = [work.image for work in works]
    told = panel.witness(images)
    mapped = {"badness", "grown"} & set(section.sources)
    maps = panel.verifier.badness(images) if mapped else [np.zeros((0, 0))] * len(works)
    captions = [one.caption for one in told]
    tries: list[_Try] = []
    rounds = []
    for owner, (work, one, badness) in enumerate(zip(works, told, maps, strict=True)):
        places, notes = propose(section, one.boxes, badness, work.image.shape[1], work.image.shape[0])
        for place in places:
            tries += _tries(section, work, owner, place, number, range(section.candidates))
        notes += () if one.caption else ("the VLM gives no caption: repainted without words",)
        rounds.append(
            Round(
                located=one.boxes, location_status=one.status, caption=one.caption, notes=notes,
                verifier=work.verifier, vlm=work.vlm,
            )
        )  # fmt: skip
    _paint_and_score(section, panel, works, tries, captions)
    again = [more for owner, work in enumerate(works) for more in _refined(section, work, owner, tries, number)]
    _paint_and_score(section, panel, works, again, captions)
    tries += again
    for owner, (work, turn) in enumerate(zip(works, rounds, strict=True)):
        own = [one for one in tries if one.owner == owner]
        chosen = _best(own)
        logged = tuple(
            Candidate(place=one.place, seed=one.seed, verifier=one.verifier, vlm=one.vlm, why=one.why) for one in own
        )
        work.rounds.append(turn.model_copy(update={"candidates": logged, "chosen": chosen}))
        if chosen is not None:
            best = own[chosen]
            work.image = _composed(section, work, best)
            work.changed = work.changed | best.region
            work.verifier, work.vlm = best.verifier, best.vlm


def _tries(
    section: CorrectionSection, work: _Work, owner: int, place: Place, number: int, candidates: range
) -> Iterator[_Try]:
    region = union_mask(place.boxes, *work.image.shape[:2])
    window = window_of(region, section.size)
    for candidate in candidates:
        named = (section.seed, work.picture.sha256, number, place.model_dump_json(), candidate)
        yield _Try(owner, place, int(stable_hash("correct", *named, length=8), 16), region, window)


def _refined(section: CorrectionSection, work: _Work, owner: int, tries: Sequence[_Try], number: int) -> Iterator[_Try]:
    """Further repaintings at the place of the best one so far; of one that the verifier liked best where none is
    preferred."""
    own = [one for one in tries if one.owner == owner and one.verifier is not None]
    if not own or not section.refine:
        return
    chosen = _best(own)
    best = own[chosen] if chosen is not None else max(own, key=lambda one: one.verifier)
    seeds = range(section.candidates, section.candidates + section.refine)
    yield from _tries(section, work, owner, best.place, number, seeds)


def _paint_and_score(
    section: CorrectionSection, panel: Panel, works: Sequence[_Work], tries: Sequence[_Try], captions: Sequence[str]
) -> None:
    _paint(section, panel.inpainter, works, tries, captions)
    _score(section, panel, works, tries)


def _paint(
    section: CorrectionSection,
    inpainter: Inpainter,
    works: Sequence[_Work],
    tries: Sequence[_Try],
    captions: Sequence[str],
) -> None:
    """Fill ``painted`` of every try; where the inpainter fails, ``why``. Views of one size go together."""
    groups: dict[tuple[int, ...], list[_Try]] = defaultdict(list)
    for one in tries:
        view, _ = shown(works[one.owner].image, one.region, one.window, section.size)
        groups[view.shape].append(one)
    for group in groups.values():
        for start in range(0, len(group), section.batch):
            chunk = group[start : start + section.batch]
            if not _painted(section, inpainter, works, chunk, captions) and len(chunk) > 1:
                for one in chunk:  # whoever spoilt the batch fails alone
                    _painted(section, inpainter, works, [one], captions)


def _painted(
    section: CorrectionSection,
    inpainter: Inpainter,
    works: Sequence[_Work],
    chunk: Sequence[_Try],
    captions: Sequence[str],
) -> bool:
    """Whether the inpainter answered."""
    views, masks = zip(
        *(shown(works[one.owner].image, one.region, one.window, section.size) for one in chunk), strict=True
    )
    calls = inpainter.calls
    try:
        painted = inpainter.repaint(
            np.stack(views), np.stack(masks), [captions[one.owner] for one in chunk], [one.seed for one in chunk]
        )
    except Exception as error:  # of whatever library paints: one candidate less, and the log says why
        for one in chunk:
            one.why = f"the inpainter failed: {type(error).__name__}: {str(error)[:200]}"
        return False
    finally:
        for one in chunk:
            works[one.owner].calls += (inpainter.calls - calls) // len(chunk)
    for one, view, mask in zip(chunk, painted, masks, strict=True):
        one.why, one.painted = ("", view) if view[mask].any() else ("the inpainter returned nothing but black", None)
    return True


def _score(section: CorrectionSection, panel: Panel, works: Sequence[_Work], tries: Sequence[_Try]) -> None:
    """Scores and ``why`` of every painted try; the VLM is asked only about what the verifier prefers."""
    painted = [one for one in tries if one.painted is not None]
    for one, score in zip(painted, _judge_tries(panel.verifier, section, works, painted), strict=True):
        one.verifier = score
        one.why = _against("the verifier", score - works[one.owner].verifier, section.reward_margin)
    asked = [one for one in painted if not one.why]
    for one, score in zip(asked, _judge_tries(panel.vlm, section, works, asked), strict=True):
        one.vlm = score
        one.why = (
            _against("the VLM", log_odds(score) - log_odds(works[one.owner].vlm), section.verdict_margin) or BETTER
        )


def _against(judge: str, gain: float, margin: float) -> str:
    """What speaks against a repainting by this gain; "" for one beyond the margin."""
    return "" if gain > margin else f"{judge} prefers it by {gain:+.2f} nats, asked are more than {margin:.2f}"


def log_odds(chance: float) -> float:
    """In nats, of a probability; beyond +-9 a float32 judge says nothing more."""
    bounded = min(max(chance, _LEAST), 1 - _LEAST)
    return float(np.log(bounded / (1 - bounded)))


def _best(tries: Sequence[_Try]) -> int | None:
    """Index of the preferred try that both judges together like best; None where none is preferred."""
    liked = [k for k, one in enumerate(tries) if one.why == BETTER]
    return max(liked, key=lambda k: tries[k].verifier + log_odds(tries[k].vlm), default=None)


def _judge_tries(
    judge: Judge, section: CorrectionSection, works: Sequence[_Work], tries: Sequence[_Try]
) -> list[float]:
    """Scores of composed images, a bounded number of pixels in memory."""
    scores: list[float] = []
    held: list[np.ndarray] = []
    for one in tries:
        held.append(_composed(section, works[one.owner], one))
        if len(held) == _MOST or sum(image.size for image in held) >= 3 * _PIXELS:
            scores += _judge(judge, held)
            held = []
    return scores + _judge(judge, held)


def _judge(judge: Judge, images: Sequence[np.ndarray]) -> list[float]:
    return [float(score) for score in judge(images)] if len(images) else []


def _composed(section: CorrectionSection, work: _Work, one: _Try) -> np.ndarray:
    """The best so far with the painted view inside the region, uint8 [H, W, 3]."""
    return blend(work.image, put_back(work.image, one.painted, one.window), one.region, section.feather)
