"""Plans of clusters whose answer is known by hand, through the whole of `make_plan`."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import Config
from artiagent.run_config import ConfigError, load_config
from artiagent.scale.asked import Asked, Gpus
from artiagent.scale.demand import rows_per_job, units
from artiagent.scale.estimate import Estimate
from artiagent.scale.plan import make_plan
from artiagent.scale.prices import load_prices
from artiagent.scale.profiles import Declared, Pool, Profile, load_profiles
from artiagent.scale.rates import Rate, RateFile, Rates, load_assumptions
from artiagent.scale.sweep import sweep
from artiagent.scale.work import _kept_every
from pipelines.stages import stages

PAPER = Path("configs/paper.yaml")
TAINT = "nvidia.com/gpu"
PROVISION, SETUP, JOIN, IDLE = 100, 10, 5, 600


@dataclass(frozen=True)
class Stage:
    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    shards: int = 1


def exactly(value: float) -> Estimate:
    return Estimate(value=value, basis="measured", source="by hand")


def certain_rates(**seconds: float) -> Rates:
    """Of stages per unit; nothing is uncertain, nothing is assumed to be slow."""
    known = load_assumptions()
    fixed = {
        "provision": exactly(PROVISION), "idle": exactly(IDLE), "join": exactly(JOIN), "stragglers": exactly(0),
        "checkpoint": exactly(0), "scene_share": exactly(1), "setup": {"gpu": exactly(SETUP), "cpu": exactly(SETUP)},
    }  # fmt: skip
    unit = {"perceive": "image", "curate": "job", "plan": "source"}
    rates = tuple(
        Rate(stage=stage, unit=unit[stage], device="cpu" if stage == "plan" else "H100", seconds=exactly(s), whole=True)
        for stage, s in seconds.items()
    )
    return Rates(known.model_copy(update=fixed), [RateFile(rates=rates)], [])


def declared(spot: bool = False) -> Declared:
    taint, tolerated = [{"key": TAINT}], [{"key": TAINT}]
    gpu = {"gpu": "H100", "gpus": 1, "cpu": 4, "memory": 32, "spot": spot}
    return Declared(
        profiles={
            "cpu": Profile(name="cpu", cpu=2, memory=8, disk=10),
            "gpu": Profile(name="gpu", disk=10, tolerations=tolerated, **gpu),
        },
        pools={
            "cpus": Pool(name="cpus", cpu=2, memory=8, disk=10, most=4),
            "gpus": Pool(name="gpus", disk=10, most=64, taints=taint, **gpu),
        },
    )  # fmt: skip


def asked(gpus: str, perceive: int, curate: int, **changes) -> Asked:
    """200 images of 36 s, then 200 jobs of 18 s, in so many shards: 7,200 and 3,600 s of one GPU."""
    config = Config.model_validate(
        {
            "planning": {"variants": 1, "benign_share": 0},
            "scale": {"profiles": {"perceive": "gpu", "curate": "gpu"}, "retries": changes.pop("retries", 0)},
        }
    )
    listed = (
        Stage("perceive", outputs=("scenes",), shards=perceive),
        Stage("curate", inputs=("scenes", "@perception.patch"), outputs=("curated",), shards=curate),
    )
    given = {
        "config": config, "stages": listed, "pairs": 100, "gpus": Gpus.parse(gpus), "declared": declared(),
        "rates": certain_rates(perceive=36, curate=18), "prices": load_prices(), "acceptance": exactly(0.5),
        "runs": 20, "preemption": 0.0,
    }  # fmt: skip
    return Asked(**{**given, **changes})


def test_one_gpu_is_the_sum():
    plan = make_plan(asked("1xH100", 1, 1), "by hand")
    expected = PROVISION + SETUP + 7200 + SETUP + 3600
    assert plan.hours.p50 * 3600 == pytest.approx(expected, rel=1e-9)
    assert plan.gpu_hours.p95 * 3600 == pytest.approx(expected + IDLE)
    assert plan.money_by["GPU"].p50 == pytest.approx((expected + IDLE) / 3600 * 4.0)  # on demand
    assert plan.path == ("perceive", "curate")


def test_a_wide_cluster_is_a_shard_of_each_and_what_starts_it():
    plan = make_plan(asked("64xH100", 40, 40), "by hand")
    join = PROVISION + SETUP + JOIN
    first, second = PROVISION + SETUP + 7200 / 40, SETUP + 3600 / 40  # the nodes have idled for less than IDLE
    assert plan.hours.p50 * 3600 == pytest.approx(first + join + second + SETUP + JOIN, rel=0.05)
    assert plan.utilisation == pytest.approx(10800 / (40 * (first + second + join + IDLE)), rel=0.05)


def test_fewer_gpus_than_shards_are_waves():
    plan = make_plan(asked("4xH100", 10, 6), "by hand")
    first = PROVISION + 3 * (SETUP + 720)
    second = 2 * (SETUP + 600)
    expected = first + PROVISION + SETUP + JOIN + second + SETUP + JOIN
    assert plan.hours.p95 * 3600 == pytest.approx(expected, rel=0.05)


def test_one_machine_has_no_pods():
    plan = make_plan(asked("1xH100", 10, 6, local=True), "by hand")
    assert plan.hours.p50 * 3600 == pytest.approx(10800)
    assert sweep(asked("1xH100", 10, 6, local=True)) == ()


def test_preemption_costs_what_it_does_by_hand():
    """One spot GPU, 2 h and 1 h, everything kept: r = -ln .9, N of 3 h is Poisson with a mean of .316: P(N = 0) = .729,
    P(N <= 1) = .959. So p80 and p95 are with one interruption, which costs a node and a start: 110 s."""
    calm = asked("1xH100", 1, 1, declared=declared(spot=True), retries=30, runs=1500, seed=4)
    plan = make_plan(replace(calm, preemption=0.1), "by hand")
    undisturbed = make_plan(calm, "by hand").hours.p50 * 3600
    assert undisturbed == pytest.approx(2 * SETUP + PROVISION + 10800)
    assert plan.hours.p50 * 3600 == pytest.approx(undisturbed, rel=1e-6)
    for found in (plan.hours.p80, plan.hours.p95):
        assert found * 3600 == pytest.approx(undisturbed + PROVISION + SETUP, rel=0.002)
    assert plan.stages[0].spot
    assert plan.stages[0].interruptions == pytest.approx(2 * 0.10536, abs=0.04)


@pytest.mark.parametrize(("save_steps", "kept"), [(10, 3600 * 10 / 100), (500, 3600)])
def test_a_training_loses_what_its_last_checkpoint_lacks(save_steps, kept):
    """3,200 samples of 32 a step are 100 steps, an hour; seconds between checkpoints follow from ``save_steps``."""
    stages = [{"name": "s", "train_vision": True, "learning_rate": 1e-4, "max_steps": 100}]
    sft = {"stages": stages, "batch_pairs": 16, "accumulate": 1, "save_steps": save_steps}
    given = asked("1xH100", 1, 1)
    given = replace(given, config=Config.model_validate({"sft": sft, "reward": {"epochs": 5, "members": 2}}))
    assert _kept_every(given, "finetune", 3600.0) == pytest.approx(kept)
    assert _kept_every(given, "train_reward", 3600.0) == pytest.approx(360)
    assert _kept_every(given, "instruct", 3600.0) == np.inf


def test_more_shards_help_until_there_are_no_more_gpus():
    curves = {curve.stage: curve for curve in sweep(asked("8xH100", 1, 1))}
    curve = curves["perceive"]
    hours = {point.shards: point.hours.p50 * 3600 for point in curve.points}
    assert hours[1] == pytest.approx(PROVISION + SETUP + 7200)
    assert hours[4] == pytest.approx(PROVISION + SETUP + 1800 + PROVISION + SETUP + JOIN)
    assert hours[8] < hours[4]
    assert max(hours) == 16
    assert curve.best == 8
    money = {point.shards: point.money.p50 for point in curve.points}
    assert money[8] > money[4] > money[1]


def test_units_follow_the_configuration():
    config = load_config(PAPER)
    found = units(config, 50_000, 0.85, 0.5, 3184, 0.18)
    assert found["tried"] == pytest.approx(58_823.5, abs=0.1)
    assert found["job"] == pytest.approx(1.25 * found["tried"])
    assert found["image"] == pytest.approx(2 * found["source"])
    assert found["row"] == pytest.approx(78 * found["job"])  # 26 + 26 + 26
    assert (found["frozen_sample"], found["whole_sample"]) == (80_000, 200 * 64)


@pytest.mark.parametrize(
    ("settings", "variants", "rows"),
    [
        ({"synthesis": {"variant_tokens": "all"}}, 4, 11 * 1.5),
        ({}, 4, 11 * (0.5 + 0.18)),  # docs/synthesis.md: (N + 1)(2 + K r) / K
        ({"synthesis": {"solver": "rf_solver", "shared_inversion": False, "variant_tokens": "all"}}, 1, 60),
    ],
)
def test_rows_of_a_job(settings, variants, rows):
    assert rows_per_job(Config.model_validate(settings), variants, 0.18) == pytest.approx(rows)


def test_rows_are_those_that_the_engine_counts():
    from artiagent.synthesis.engine import region_share, row_evaluations
    from artiagent.synthesis.rehearsal import rectangles

    config = Config()
    batch = rectangles((32, 32), 4, 0.15, config.synthesis.feather)
    share = np.mean([region_share(injections, config.synthesis.feather) for injections in batch])
    assert rows_per_job(config, 4, share) * 4 == pytest.approx(row_evaluations(config.synthesis, batch))


def paper(gpus: str | None = "64xH100", **changes) -> Asked:
    config = load_config(PAPER)
    rates = Rates.load()
    given = {
        "config": config, "stages": stages(config), "pairs": 50_000, "gpus": Gpus.parse(gpus) if gpus else None,
        "declared": load_profiles(), "rates": rates, "prices": load_prices(),
        "acceptance": rates.known("acceptance", config),
    }  # fmt: skip
    return Asked(**{**given, **changes})


def test_a_thousand_runs_of_the_papers_plan_take_seconds():
    started = time.process_time()
    plan = make_plan(paper(), "configs/paper.yaml")
    assert time.process_time() - started < 20
    assert plan.runs == 1000
    assert 0 < plan.hours.p50 < plan.hours.p80 < plan.hours.p95
    assert plan.path[0] == "ingest"
    assert plan.path[-1] == "report"
    assert plan.money.p50 == pytest.approx(sum(part.p50 for part in plan.money_by.values()), rel=0.1)


def test_equal_seeds_give_equal_plans():
    one, two, other = (make_plan(paper(runs=20, seed=seed), "") for seed in (3, 3, 4))
    assert one == two
    assert one.hours != other.hours


def test_what_explains_the_spread_is_told():
    """Hours rest on perception alone, which is uncertain; nothing else is drawn but what does not matter to them."""
    wide = Estimate(value=36, low=18, high=72, source="by hand")
    known = certain_rates(perceive=36, curate=18)
    rates = RateFile(
        rates=(
            Rate(stage="perceive", unit="image", device="H100", seconds=wide, whole=True),
            Rate(stage="curate", unit="job", device="H100", seconds=exactly(18), whole=True),
        )
    )
    plan = make_plan(asked("1xH100", 1, 1, rates=Rates(known.assumptions, [rates], []), runs=200), "by hand")
    assert plan.matters["perceive:image"]["hours"] == pytest.approx(1)
    assert plan.matters["aspect"]["hours"] < 0.1
    assert plan.hours.p95 > plan.hours.p50


def test_nothing_assumed_is_called_measured():
    plan = make_plan(paper(runs=5), "")
    basis = {stage.name: {rate.seconds.basis for rate in stage.rates} for stage in plan.stages}
    assert basis["plan"] == {"measured"}
    assert basis["synthesize"] == basis["finetune"] == {"assumed"}  # counted operations at an assumed rate
    assert plan.acceptance.basis == "assumed"


def test_a_stage_of_eight_gpus_on_four():
    with pytest.raises(ValueError, match=r"'finetune' needs 8 GPUs at once, there are 4: give --gpus at least 8"):
        make_plan(paper("4xH100", runs=2), "")


def test_another_card_is_converted_and_said_to_be_assumed():
    plan = make_plan(paper("64xA100", runs=2), "")
    perceive = next(stage for stage in plan.stages if stage.name == "perceive")
    assert "on H100" in perceive.rates[0].seconds.source
    assert "x 2.47 for A100: assumed" in perceive.rates[0].seconds.source
    assert "profile gpu-1x80gb names H100; planned with A100" in plan.notes


def test_a_card_without_a_rate_or_a_price_says_what_to_add():
    with pytest.raises(ConfigError, match=r"'perceive': no rate per image on B200 \(known on H100, cpu\); add"):
        make_plan(paper("8xB200", runs=2), "")
    priced = load_prices().model_copy(update={"gpu_hour": {"A100": load_prices().gpu_hour["A100"]}})
    with pytest.raises(ConfigError, match=r"prices\.yaml: gpu_hour has no H100 \(has A100\); add 'H100: \{on_demand"):
        make_plan(paper(runs=2, prices=priced), "")


def test_a_profile_without_gpus_at_hand_says_what_to_give():
    with pytest.raises(ConfigError, match=r"profile 'gpu-1x80gb' needs 1 GPUs: give --gpus, e.g. --gpus 8xH100"):
        make_plan(paper(runs=2, gpus=None), "")


@pytest.mark.parametrize("text", ["64H100", "xH100", "0xH100", "64x", "64 x H100", "-8xH100"])
def test_malformed_gpus(text):
    with pytest.raises(ValueError, match="expected COUNTxMODEL, e.g. 64xH100"):
        Gpus.parse(text)


def test_estimates_are_ordered_and_have_a_source():
    with pytest.raises(ValueError, match="expected low <= value <= high"):
        Estimate(value=1, low=2, high=3, source="why")
    with pytest.raises(ValueError, match="source"):
        Estimate.model_validate({"value": 1})
    drawn = Estimate(value=2, low=1, high=6, source="why").draw(np.random.default_rng(0), 4000)
    assert drawn.mean() == pytest.approx(3, rel=0.05)
    assert (drawn.min() >= 1, drawn.max() <= 6) == (True, True)
