"""What a search writes down: candidates, the state after every round, and the figures of the report."""

from __future__ import annotations

from pydantic import Field

from artiagent.records import Interval, Record


class Candidate(Record):
    """A picture that a search drew. Key: ``prompt/algorithm/round/index``, numbers from 0 and 1; the row's image is
    empty where the candidate was not among the best so far when its round ended."""

    prompt: str
    algorithm: str
    round: int  # from 1
    seed: int  # of its own noise
    parent: str = ""  # key of the candidate whose noise or picture it varies
    reward: float  # of the steering verifier
    calls: int  # transformer calls that this search had spent when its round ended
    decoded: int  # pictures and estimates that it had decoded and scored by then
    is_best: bool  # best so far when its round ended
    kept: bool  # among the best few so far when its round ended


class Round(Record):
    """What a search had to show after a round, as its judges saw it. Key: ``prompt/algorithm/round``."""

    prompt: str
    algorithm: str
    round: int
    calls: int
    decoded: int
    best: str  # key of the best candidate so far
    scores: dict[
        str, float
    ]  # of the best: reward, held_out, vlm, faulty (0 or 1), deviations; of the best few: diversity


class Reach(Record):
    """How many calls an algorithm needs for what random search has after all of its own, in the mean over prompts.

    ``calls`` is None where the mean never gets there; resamples that do not count as ``limit`` in the interval.
    """

    calls: Interval | None
    limit: int  # calls that the algorithm had
    target: int  # calls that random search had
    share: float  # of the resamples in which it gets there


class Course(Record):
    """An algorithm's course: after each round the mean over prompts, with intervals."""

    calls: tuple[int, ...]
    decoded: tuple[int, ...]
    curves: dict[str, tuple[Interval, ...]]  # score -> value after each round
    gains: dict[str, Interval]  # score -> last minus first round, paired by prompt
    against_random: dict[str, Interval] = Field(default_factory=dict)  # at the calls it had, minus random search there
    reach: Reach | None = None


class SearchReport(Record):
    """Figures of a search. ``remarks`` say in words what the intervals say."""

    generator: str
    prompts: int
    steps: int
    calls_per_image: int
    courses: dict[str, Course]
    models: dict[str, str]  # role -> sha256
    cost: dict[str, float]
    unknown_words: str = ""  # of the prompts, that the generator hardly knows
    remarks: tuple[str, ...] = ()
