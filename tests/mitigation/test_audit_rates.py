"""Rates: prompts as units, corrected prevalence in a simulated world, differences in pairs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.config import AuditSection
from artiagent.mitigation.audit.rates import contrasts_of, detector_of, naming, rates_of, unit_of, wilson
from artiagent.mitigation.audit.records import Audited

SECTION = AuditSection(resamples=1000)


def audited(name: str, prompt: str, score: float | None, generator: str = "g", **more: object) -> Audited:
    verdict = "unread" if score is None else "artifacts" if score >= 0.5 else "clean"
    return Audited(
        image=name, image_sha256="", generator=generator, prompt=prompt, score=score, verdict=verdict, **more
    )


def world(faulty: Iterable[bool], rng: np.random.Generator, hit: float, pass_: float) -> np.ndarray:
    """Scores that a detector of this sensitivity and specificity gives."""
    truth = np.array(list(faulty))
    said = np.where(truth, rng.random(len(truth)) < hit, rng.random(len(truth)) >= pass_)
    return np.where(said, 0.9, 0.1)


def test_a_biased_detector_is_corrected_and_its_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(1000) % 2 == 0
    judged = {"bench": (truth, world(truth, rng, 0.7, 0.95))}
    scores = world(np.arange(1200) % 10 < 6, rng, 0.7, 0.95)  # 60 % of the images are faulty
    rows = [audited(f"{k}", f"prompt {k // 4}", float(score)) for k, score in enumerate(scores)]
    found = rates_of(rows, judged, SECTION)
    assert found.rate.value == pytest.approx(0.44, abs=0.04)
    assert found.rate.high < 0.6
    corrected = found.corrected["bench"]
    assert corrected.low < 0.6 < corrected.high
    assert corrected.high - corrected.low > found.rate.high - found.rate.low
    few = {"bench": (truth[:60], judged["bench"][1][:60])}
    wider = rates_of(rows, few, SECTION).corrected["bench"]
    assert wider.high - wider.low > 1.5 * (corrected.high - corrected.low)
    known = detector_of(*judged["bench"], SECTION)
    assert (known.n, known.n_faulty) == (1000, 500)
    assert known.sensitivity.low < 0.7 < known.sensitivity.high
    assert known.specificity.low < 0.95 < known.specificity.high


def test_a_detector_without_skill_corrects_nothing() -> None:
    truth = np.arange(200) % 2 == 0
    judged = {"bench": (truth, np.full(200, 0.9))}
    found = rates_of([audited(str(k), "", 0.9) for k in range(20)], judged, SECTION)
    assert found.corrected == {} and found.rate.value == 1


def test_a_rate_above_the_sensitivity_refutes_the_benchmark() -> None:
    rng = np.random.default_rng(2)
    truth = np.arange(400) % 2 == 0
    judged = {"bench": (truth, world(truth, rng, 0.6, 0.95))}
    plain = [audited(str(k), f"p{k // 2}", 0.9 if k % 20 else 0.1, "plain") for k in range(200)]
    rare = [audited(str(k), f"p{k // 2}", 0.9 if k % 5 == 0 else 0.1, "rare") for k in range(200)]
    assert rates_of(plain, judged, SECTION).corrected == {}
    assert rates_of(rare, judged, SECTION).corrected["bench"].value > 0.2
    assert contrasts_of({"plain": plain, "rare": rare}, judged, SECTION)["plain - rare"].corrected == {}
    alike = {"rare": rare, "twin": [row.model_copy(update={"generator": "twin"}) for row in rare]}
    found = contrasts_of(alike, judged, SECTION)["rare - twin"].corrected["bench"]
    assert (found.low, found.value, found.high) == (0, 0, 0)


def test_prompts_are_resampled_and_not_images() -> None:
    rows = [audited(f"{k}", f"prompt {k // 8}", 0.9 if k // 8 % 2 else 0.1) for k in range(160)]
    alone = [row.model_copy(update={"prompt": ""}) for row in rows]
    together, apart = (rates_of(some, {}, SECTION) for some in (rows, alone))
    assert (together.prompts, apart.prompts) == (20, 160)
    assert together.rate.value == apart.rate.value == 0.5
    assert together.rate.high - together.rate.low > 2 * (apart.rate.high - apart.rate.low)
    assert unit_of(alone[0]) != unit_of(alone[1])


def test_no_hit_among_few_prompts_is_no_proof_of_none() -> None:
    truth = np.arange(400) % 2 == 0
    judged = {"bench": (truth, np.where(truth, 0.9, 0.1))}
    found = rates_of([audited(str(k), f"p{k // 2}", 0.1) for k in range(40)], judged, SECTION)
    assert (found.rate.value, found.rate.low) == (0, 0)
    assert found.rate.high == pytest.approx(wilson(0.0, 20)[1])
    assert found.corrected["bench"].high == pytest.approx(found.rate.high)


@given(st.integers(1, 400), st.floats(0, 1))
def test_wilson_holds_the_share(n: int, share: float) -> None:
    low, high = wilson(share, n)
    assert 0 <= low <= share + 1e-9 and share - 1e-9 <= high <= 1


def test_shares_by_type_entity_and_part() -> None:
    told = {"fault": "omission", "entity": "dog", "part": "tail"}
    rows = [audited(str(k), "a dog on grass", 0.9, **told) for k in range(3)]
    rows += [audited(str(k), "two dogs", 0.1, deviations=()) for k in range(3, 9)]
    rows += [audited(str(k), "a car", 0.1, deviations=("wheel: 1, too few",)) for k in range(9, 12)]
    rows += [audited("broken", "a car", None)]
    found = rates_of(rows, {}, SECTION)
    assert (found.images, found.unread) == (12, 1)
    assert found.by_fault["omission"].value == found.by_part["tail"].value == 0.25
    assert (found.by_entity["dog"].value, found.by_entity["dog"].n) == (pytest.approx(1 / 3), 9)
    assert (found.parts.value, found.parts.n) == (pytest.approx(1 / 3), 9)
    fancied = [audited("0", "a car", 0.9, entity="unicorn"), audited("1", "", 0.1)]
    assert rates_of(fancied, {}, SECTION).by_entity == {}
    assert list(rates_of([row.model_copy(update={"prompt": ""}) for row in fancied], {}, SECTION).by_entity) == [
        "unicorn"
    ]
    assert not naming("car")(rows[0]) and naming("dog")(rows[4])


def test_thresholds_move_the_rate() -> None:
    rows = [audited(str(k), "", k / 100) for k in range(100)]
    found = rates_of(rows, {}, SECTION.model_copy(update={"thresholds": (0.2, 0.5, 0.9)}))
    assert [row.rate.value for row in found.thresholds] == pytest.approx([0.8, 0.5, 0.1])


def test_generators_are_compared_on_the_prompts_of_both() -> None:
    rng = np.random.default_rng(1)
    hard = rng.random(60) < 0.5
    first = [audited(f"{k}", f"p{k}", 0.9 if hard[k] or k % 6 == 0 else 0.1, "a") for k in range(60)]
    second = [audited(f"{k}", f"p{k}", 0.9 if hard[k] else 0.1, "b") for k in range(60)]
    paired = contrasts_of({"a": first, "b": second}, {}, SECTION)["a - b"]
    elsewhere = [row.model_copy(update={"prompt": f"other {row.prompt}"}) for row in second]
    apart = contrasts_of({"a": first, "b": elsewhere}, {}, SECTION)["a - b"]
    assert (paired.paired, paired.prompts, apart.paired, apart.prompts) == (True, 60, False, 120)
    assert paired.rate.value == apart.rate.value > 0
    assert paired.rate.low > 0 > apart.rate.low
    more = [*second, audited("x", "only here", 0.9, "b")]
    assert contrasts_of({"a": first, "b": more}, {}, SECTION)["a - b"].rate.value == paired.rate.value


def test_nothing_answered_is_an_error() -> None:
    with pytest.raises(ValueError, match="g: none of 1 images could be read"):
        rates_of([audited("broken", "", None)], {}, SECTION)
