import numpy as np
import pytest

from artiagent.evaluation.bootstrap import draw_weights
from artiagent.mitigation.search.curves import Track, better, course, reach, remarks, tracks_of
from artiagent.mitigation.search.records import Round
from artiagent.records import Interval

RNG = np.random.default_rng(0)


def track(calls, reward, **scores) -> Track:
    """Scores [rounds, prompts]; the held-out verifier's is the reward unless given."""
    reward = np.array(reward, dtype=float)
    given = {"reward": reward, "held_out": reward, **{k: np.array(v, dtype=float) for k, v in scores.items()}}
    return Track(np.array(calls), np.array(calls) // 4, given)


def test_reach_is_where_the_means_meet() -> None:
    random = track([8, 24, 56], [[0, 0], [1, 1], [2, 4]])
    quick = track([12, 24, 36], [[0, 1], [3, 3], [3, 3]])
    weights = draw_weights(2, 500, 0)
    found = reach(quick, random, weights)
    assert (found.calls.value, found.target, found.limit) == (24, 56, 36)
    assert found.share < 1  # a resample of the second prompt alone asks for 4


def test_what_is_never_reached_has_no_calls() -> None:
    found = reach(track([12], [[0, 0]]), track([8], [[1, 1]]), draw_weights(2, 50, 0))
    assert found.calls is None
    assert found.share == 0


def test_gains_are_paired() -> None:
    """A constant gain has an interval of no width, however much prompts differ."""
    first = RNG.normal(size=20) * 10
    found = course(track([8, 24], [first, first + 1]), None, draw_weights(20, 300, 0)).gains["reward"]
    assert found.low == pytest.approx(1, abs=1e-4)
    assert found.high == pytest.approx(1, abs=1e-4)


def test_random_search_is_compared_at_equal_calls() -> None:
    random = track([8, 24, 56], [[0, 0], [1, 1], [9, 9]])
    found = course(track([12, 50], [[0, 0], [3, 3]]), random, draw_weights(2, 50, 0))
    assert found.against_random["reward"].value == 2  # random search had 24 of its calls behind it


def test_fewer_faults_are_better() -> None:
    fall = Interval(value=-0.2, low=-0.3, high=-0.1, n=9)
    assert (better("faulty", fall), better("reward", fall)) == (1, -1)
    assert better("vlm", Interval(value=0.1, low=-0.1, high=0.3, n=9)) == 0


def test_over_optimisation_is_called_by_its_name() -> None:
    first, weights = RNG.normal(size=30), draw_weights(30, 300, 0)
    taste = RNG.normal(size=30)
    steered = track([8, 56], [first, first + 2], held_out=[taste, taste + 0.01 * RNG.normal(size=30)])
    agreed = track([8, 56], [first, first + 2], held_out=[taste, taste + 1])
    said = {
        name: " ".join(remarks({"random": course(t, None, weights)}, {"random": t}))
        for name, t in {"alone": steered, "agreed": agreed}.items()
    }
    assert "over-optimised" in said["alone"]
    assert "over-optimised" not in said["agreed"]
    assert "held-out verifier" in said["agreed"]


def test_searches_out_of_step_are_refused() -> None:
    def record(prompt: str, calls: int) -> Round:
        return Round(prompt=prompt, algorithm="random", round=1, calls=calls, decoded=2, best="k", scores={"reward": 1})

    with pytest.raises(ValueError, match="differ"):
        tracks_of([record("a", 8), record("b", 12)])
