"""The rule of the gate on answers whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.evaluation.metrics import macro_f1, mean_of
from artiagent.evaluation.scoring import Score
from artiagent.promotion.gate import Decision, Measured, Rule, decide, luck

N = 400
RULE = Rule("macro_f1", ("iou", "rouge_l"))
ALL = frozenset({"macro_f1", "iou", "rouge_l", "pixel_f1"})
TRUTH = np.arange(N) % 2 == 0


def side(right, iou=None, label="version 2", **changes):
    """A model that answers the images ``right`` (bool [N]) and has these IoUs."""
    answers = np.where(right, TRUTH, ~TRUTH).astype(int)
    statistics = {"macro_f1": Score(macro_f1(TRUTH, answers), N), "rouge_l": Score(mean_of(np.full(N, 0.2)), N)}
    if iou is not None:
        statistics["iou"] = Score(mean_of(iou), N)
    given = {"label": label, "sha256": label, "revision": "r" * 64, "prompts": "p", "statistics": statistics,
             "units": tuple(map(str, range(N)))}  # fmt: skip
    return Measured(**given | changes)


def right(share, seed=0):
    return np.random.default_rng(seed).random(N) < share


def ask(challenger, champion, audit="pass", rule=RULE, measurable=ALL):
    return decide(challenger, champion, rule, audit, measurable, resamples=1000, seed=0, benchmark="drawn")


FLAT = np.full(N, 0.3)
OLD = right(0.7)
BETTER = OLD | right(0.5, seed=1)
A_LITTLE = OLD.copy()
A_LITTLE[np.flatnonzero(~OLD)[:3]] = True
A_LITTLE[np.flatnonzero(OLD)[:1]] = False


def test_an_equal_challenger_is_not_promoted():
    found = ask(side(OLD, FLAT), side(OLD, FLAT, "version 1"))
    assert found.verdict == "kept"
    assert found.result("macro_f1").difference.low == found.result("macro_f1").difference.high == 0
    assert "both score alike on every resample" in found.reasons[0]


def test_better_by_less_than_the_interval_is_not_promoted():
    found = ask(side(A_LITTLE, FLAT), side(OLD, FLAT, "version 1"))
    gap = found.result("macro_f1").difference
    assert gap.low < 0 < gap.value
    assert found.verdict == "kept"
    assert f"falls short by {-gap.low:.3f}" in found.reasons[0]
    assert f"a lead of more than about {gap.value - gap.low:.3f} is needed" in found.reasons[0]


def test_a_better_one_is_promoted():
    found = ask(side(BETTER, FLAT), side(OLD, FLAT, "version 1"))
    assert found.verdict == "promoted"
    assert found.reasons[0].startswith("macro_f1 is won")
    assert (found.n, found.resamples, found.revision) == (N, 1000, "r" * 64)
    assert Decision.model_validate_json(found.model_dump_json()) == found
    assert found.digest == ask(side(BETTER, FLAT), side(OLD, FLAT, "version 1")).digest


def test_a_guarded_loss_keeps_the_champion_and_says_by_how_much():
    found = ask(side(BETTER, FLAT - 0.1), side(OLD, FLAT, "version 1"))
    assert found.verdict == "kept"
    assert found.reasons == (
        "iou is lost: 0.200 against 0.300, difference -0.100 [-0.100, -0.100]; its interval lies below 0 by 0.100",
    )


def test_metrics_that_are_only_reported_decide_nothing_and_know_no_direction():
    worse = {"false_alarm_area": Score(mean_of(FLAT + 0.3), N)}
    ours, theirs = side(BETTER, FLAT), side(OLD, FLAT, "version 1")
    ours.statistics.update(worse)
    theirs.statistics.update({"false_alarm_area": Score(mean_of(FLAT), N)})
    found = ask(ours, theirs, measurable=ALL | worse.keys())
    assert found.result("false_alarm_area").outcome == "higher"
    assert found.verdict == "promoted"


def test_a_guarded_metric_may_be_lost_within_its_interval():
    noise = np.random.default_rng(2).normal(0, 0.2, N)
    noise -= noise.mean() + 0.005
    found = ask(side(BETTER, FLAT + noise), side(OLD, FLAT, "version 1"))
    assert found.result("iou").difference.value < 0
    assert found.verdict == "promoted"


@pytest.mark.parametrize(
    ("audit", "verdict"), [("fail", "kept"), ("insufficient n", "kept"), ("not recorded", "refused")]
)
def test_the_audit_has_to_have_passed(audit, verdict):
    found = ask(side(BETTER, FLAT), side(OLD, FLAT, "version 1"), audit)
    assert found.verdict == verdict
    assert "audit" in found.reasons[0]
    worse = ask(side(OLD, FLAT), side(BETTER, FLAT, "version 1"), audit)
    assert any(reason.startswith("macro_f1 is not won") for reason in worse.reasons)
    reported = ask(side(BETTER, FLAT), side(OLD, FLAT, "version 1"), audit, RULE._replace(audit_required=False))
    assert (reported.verdict, reported.audit) == ("promoted", audit)


def test_what_the_benchmark_has_not_is_not_judged():
    found = ask(side(BETTER), side(OLD, label="version 1"), measurable=ALL - {"iou"})
    assert found.verdict == "promoted"
    assert found.result("iou").outcome == "not judged"
    assert "iou is not judged: the benchmark has no ground truth for it" in found.reasons


@pytest.mark.parametrize(
    ("ours", "theirs", "whose"), [(None, FLAT, "version 2"), (FLAT, None, "version 1"), (None, None, "version 2 and")]
)
def test_a_guarded_metric_that_one_side_lacks_is_a_refusal(ours, theirs, whose):
    found = ask(side(BETTER, ours), side(OLD, theirs, "version 1"))
    assert found.verdict == "refused"
    assert f"iou is guarded and cannot be computed from the answers of {whose}" in found.reasons[0]


def test_a_guarded_metric_that_is_undefined_is_a_refusal():
    undefined = side(BETTER, FLAT)
    statistics = {**undefined.statistics, "iou": Score(mean_of(FLAT, np.zeros(N, bool)), 0)}
    found = ask(side(BETTER, FLAT, statistics=statistics), side(OLD, FLAT, "version 1"))
    assert found.verdict == "refused"


def test_without_truth_for_the_primary_metric_nothing_is_judged():
    found = ask(side(BETTER, FLAT), side(OLD, FLAT, "version 1"), measurable=ALL - {"macro_f1"})
    assert found.verdict == "refused"
    assert "macro_f1 is the primary metric" in found.reasons[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"revision": "q" * 64}, "two revisions of the benchmark: rrrrrrrrrrrr and qqqqqqqqqqqq"),
        ({"prompts": "other"}, "different prompts"),
        ({"units": tuple(map(str, range(1, N + 1)))}, "1 items only of the first, 1 only of the second"),
        ({"units": tuple(map(str, reversed(range(N))))}, "the same items in another order"),
    ],
)
def test_sides_that_are_about_different_things_are_refused(change, said):
    found = ask(side(BETTER, FLAT), side(OLD, FLAT, "version 1", **change))
    assert found.verdict == "refused"
    assert said in found.reasons[0]
    assert not found.computed


def test_of_equal_challengers_one_in_forty_is_promoted():
    """Under the null both sides err on images of their own, at the same rate: the promotion rate is at most 2.5 %."""
    truth, n, trials = np.arange(120) % 2 == 0, 120, 400
    rng = np.random.default_rng(0)
    units = tuple(map(str, range(n)))
    promoted = 0
    for trial in range(trials):
        sides = []
        for label in ("a", "b"):
            answers = np.where(rng.random(n) < 0.75, truth, ~truth).astype(int)
            score = {"macro_f1": Score(macro_f1(truth, answers), n)}
            sides.append(Measured(label, label, "r", "p", units, score))
        rule = Rule("macro_f1")
        found = decide(*sides, rule, "pass", {"macro_f1"}, resamples=500, seed=trial)
        promoted += found.verdict == "promoted"
    noise = 2.5 * np.sqrt(0.025 * 0.975 / trials)
    assert promoted / trials <= 0.025 + noise
    assert promoted > 0  # the gate does let luck through at that rate: looks are counted for a reason


@given(st.integers(1, 500))
def test_luck_grows_with_every_look(looks):
    assert luck(looks) < luck(looks + 1) <= min(1.0, 0.025 * (looks + 1))


@given(st.integers(0, 2**31), st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_never_both_ways(seed, first, second):
    """Nobody beats somebody that beats them."""
    ours, theirs = side(right(first, seed), FLAT), side(right(second, seed + 1), FLAT, "version 1")
    rule = Rule("macro_f1")
    verdicts = [
        decide(*pair, rule, "pass", ALL, resamples=100, seed=0).verdict for pair in ((ours, theirs), (theirs, ours))
    ]
    assert verdicts.count("promoted") <= 1
    if first == second and np.array_equal(right(first, seed), right(second, seed + 1)):
        assert verdicts == ["kept", "kept"]
