"""From rounds to figures: means over prompts with intervals, paired gains, calls until random search's last value.

Prompts are resampled. A search holds what it had until its next round ends: curves are steps. Does not know pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from artiagent.config import EvaluationSection, SearchSection
from artiagent.evaluation.bootstrap import BLOCK, LEVEL, Statistic, difference, draw_weights, interval
from artiagent.mitigation.search.records import Course, Reach, Round, SearchReport
from artiagent.records import DatasetRef, Interval
from artiagent.store import read_rows

STEERING, HELD_OUT = "reward", "held_out"
JUDGES = (HELD_OUT, "vlm", "faulty", "deviations")
SCORES = (STEERING, *JUDGES, "diversity")
LOWER_IS_BETTER = {"faulty", "deviations"}
NAMES = {
    "reward": "steering verifier", "held_out": "held-out verifier", "vlm": "VLM, P(no artifacts)",
    "faulty": "share called faulty by the part counter", "deviations": "wrong part counts per picture",
    "diversity": "diversity of the best", "random": "random", "zero_order": "zero-order", "particles": "particles",
}  # fmt: skip


@dataclass(frozen=True)
class Track:
    """An algorithm's rounds over all prompts: calls and decoded [rounds], score -> values [rounds, prompts]."""

    calls: np.ndarray
    decoded: np.ndarray
    scores: dict[str, np.ndarray]

    def at(self, calls: int) -> int:
        """The last round that ended within so many calls; -1: none."""
        return int(np.searchsorted(self.calls, calls, side="right")) - 1


def summarise_search(
    section: SearchSection, evaluation: EvaluationSection, drawn: DatasetRef, rounds: DatasetRef,
    models: Mapping[str, str],
) -> SearchReport:  # fmt: skip
    """Figures of a judged search. Intervals resample prompts ``section.resamples`` times."""
    tracks = tracks_of(row.record for row in read_rows(rounds, Round))
    tracks = {name: tracks[name] for name in section.algorithms}
    prompts = next(iter(tracks.values())).scores[STEERING].shape[1]
    weights = draw_weights(prompts, section.resamples, evaluation.seed)
    summary = drawn.summary
    courses = {name: course(track, tracks.get("random"), weights) for name, track in tracks.items()}
    per_image = int(summary["calls_per_image"])
    spent = {name: float(track.calls[-1]) for name, track in tracks.items()}
    cost = {f"{name}.calls_per_prompt": calls for name, calls in spent.items()}
    cost |= {f"{name}.search_calls": calls - per_image for name, calls in spent.items()}
    cost |= {f"{name}.decoded_per_prompt": float(track.decoded[-1]) for name, track in tracks.items()}
    cost |= {"final_calls": float(per_image)}
    cost |= {k: float(summary[k]) for k in ("images_per_second", "search_seconds") if k in summary}
    return SearchReport(
        generator=str(summary["generator"]), prompts=prompts, steps=int(summary["steps"]), calls_per_image=per_image,
        courses=courses, models=dict(models), cost=cost, unknown_words=str(summary["unknown_words"]),
        remarks=tuple(remarks(courses, tracks)),
    )  # fmt: skip


def tracks_of(rounds: Sequence[Round]) -> dict[str, Track]:
    """Rounds by algorithm, prompts in their order. Raises ValueError when searches of an algorithm are not in step."""
    found: dict[str, dict[int, list[Round]]] = defaultdict(lambda: defaultdict(list))
    for each in rounds:
        found[each.algorithm][each.round].append(each)
    return {name: _track(name, by_round) for name, by_round in found.items()}


def course(track: Track, random: Track | None, weights: np.ndarray) -> Course:
    """Curves, gains, and the comparison with random search at equal calls; ``weights`` of ``draw_weights``."""
    curves = {
        name: tuple(interval(_mean(values), weights) for values in rounds) for name, rounds in track.scores.items()
    }
    gains = {name: difference(_mean(v[-1]), _mean(v[0]), weights) for name, v in track.scores.items()}
    against, reached = {}, None
    if random is not None and random is not track:
        if (k := random.at(int(track.calls[-1]))) >= 0:
            against = {
                name: difference(_mean(v[-1]), _mean(random.scores[name][k]), weights)
                for name, v in track.scores.items()
            }
        reached = reach(track, random, weights)
    return Course(
        calls=tuple(map(int, track.calls)), decoded=tuple(map(int, track.decoded)), curves=curves, gains=gains,
        against_random=against, reach=reached,
    )  # fmt: skip


def reach(track: Track, random: Track, weights: np.ndarray, score: str = STEERING) -> Reach:
    """Calls until the mean over prompts is that of random search after its last round."""
    ones = np.ones((1, weights.shape[1]), dtype=np.float32)
    target, values = random.scores[score][-1], track.scores[score]
    limit = int(track.calls[-1])

    def calls(drawn: np.ndarray) -> np.ndarray:
        """Calls of each resample; beyond ``limit`` where it is not reached."""
        there = drawn @ values.T >= (drawn @ target)[:, None]
        return np.where(there.any(1), track.calls[there.argmax(1)], np.inf)

    plain = float(calls(ones)[0])
    drawn = np.concatenate([calls(weights[k : k + BLOCK]) for k in range(0, len(weights), BLOCK)])
    low, high = np.quantile(np.minimum(drawn, limit), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    found = None if np.isinf(plain) else Interval(value=plain, low=float(low), high=float(high), n=weights.shape[1])
    return Reach(calls=found, limit=limit, target=int(random.calls[-1]), share=float(np.isfinite(drawn).mean()))


def remarks(courses: Mapping[str, Course], tracks: Mapping[str, Track]) -> list[str]:
    """What the intervals say, in sentences: whether gains are real for those who did not steer, and what they cost."""
    return [sentence for name, found in courses.items() for sentence in _remarks(name, found, tracks[name])]


def better(score: str, found: Interval) -> int:
    """1 where a difference is an improvement beyond its interval, -1 where the opposite, 0 where it may be chance."""
    sign = -1 if score in LOWER_IS_BETTER else 1
    return sign * (int(found.low > 0) - int(found.high < 0))


def _remarks(name: str, found: Course, track: Track) -> list[str]:
    title, verdicts = NAMES[name], {score: better(score, gain) for score, gain in found.gains.items()}
    agreed = [NAMES[s] for s in JUDGES if verdicts.get(s) == 1]
    against = [NAMES[s] for s in JUDGES if verdicts.get(s) == -1]
    unsure = [NAMES[s] for s in JUDGES if verdicts.get(s) == 0]
    told = []
    if verdicts[STEERING] == 1 and not agreed:
        told.append(
            f"{title}: over-optimised. The steering reward rises from the first to the last round, and no judge that "
            "did not steer agrees beyond chance."
        )
    elif agreed:
        rest = f" No sure change: {', '.join(unsure)}." if unsure else ""
        told.append(f"{title}: better from the first to the last round beyond chance for {', '.join(agreed)}.{rest}")
    if against:
        told.append(f"{title}: worse from the first to the last round beyond chance for {', '.join(against)}.")
    if verdicts[STEERING] == 1 and verdicts[HELD_OUT] == 1:
        gains = {s: found.gains[s].value / max(float(track.scores[s][0].std()), 1e-9) for s in (STEERING, HELD_OUT)}
        told.append(
            f"{title}: in standard deviations of the first round the steering reward gains {gains[STEERING]:.1f}, the "
            f"held-out verifier {gains[HELD_OUT]:.1f}"
            + ("; the rest is the taste of the one that steers." if gains[HELD_OUT] < gains[STEERING] else ".")
        )
    if "diversity" in found.gains and verdicts["diversity"] == -1:
        first, last = found.curves["diversity"][0].value, found.curves["diversity"][-1].value
        told.append(f"{title}: its best pictures grow more alike, diversity {first:.3f} to {last:.3f}.")
    if (r := found.reach) is not None:
        told.append(f"{title}: {_reached(r)}")
    return told


def _reached(found: Reach) -> str:
    if found.calls is None:
        return (
            f"does not reach random search's last value ({found.target} calls) within its {found.limit} calls; "
            f"{100 * found.share:.0f} % of the resamples do."
        )
    return (
        f"reaches random search's last value ({found.target} calls) after {found.calls.value:.0f} calls, "
        f"{100 * found.calls.value / found.target:.0f} % [{100 * found.calls.low / found.target:.0f}, "
        f"{100 * found.calls.high / found.target:.0f}]; {100 * found.share:.0f} % of the resamples get there within "
        f"{found.limit}."
    )


def _track(name: str, by_round: Mapping[int, list[Round]]) -> Track:
    ordered = [by_round[number] for number in sorted(by_round)]
    if len({len(rounds) for rounds in ordered}) > 1 or any(len({r.calls for r in rounds}) > 1 for rounds in ordered):
        raise ValueError(f"rounds of {name} differ in number or calls between prompts; the set is incomplete")
    scores = {
        score: np.array([[each.scores[score] for each in rounds] for rounds in ordered])
        for score in SCORES
        if all(score in each.scores for rounds in ordered for each in rounds)
    }
    calls, decoded = (np.array([getattr(rounds[0], k) for rounds in ordered]) for k in ("calls", "decoded"))
    return Track(calls, decoded, scores)


def _mean(values: np.ndarray) -> Statistic:
    return lambda drawn: drawn @ values / drawn.sum(1)
