"""Both sides' answers -> a decision, counted as a look at the benchmark, and what follows from it."""

from __future__ import annotations

from typing import Annotated

from mlflow import MlflowClient

from artiagent.config import Config
from artiagent.promotion.gate import Decision
from artiagent.promotion.records import Candidates, Order, Promotion, State
from artiagent.records import DatasetRef
from steps.champion import now
from steps.predict_candidate import ERROR
from steps.stage import effect_step
from steps.tracking import RUN, STAGE, connect, experiment

REVISION, COMPUTED = "gate.revision", "gate.computed"  # tags of the MLflow run of a decision


def run(
    config: Config, order: Order, candidates: Candidates, challenger: DatasetRef, champion: DatasetRef
) -> Annotated[Promotion, "promotion"]:
    decision = judge(config, candidates, challenger, champion)
    run, decision = count(connect(), config, order, decision)
    return intend(config, order, candidates, decision, run)


def judge(config: Config, candidates: Candidates, challenger: DatasetRef, champion: DatasetRef) -> Decision:
    """The gate's decision; whatever stops the comparison is a refusal with the reason."""
    from artiagent.evaluation.benchmarks import benchmark_sha256
    from artiagent.promotion.gate import decide
    from artiagent.promotion.measure import TRIVIAL, measurable, measure, rule_of, trivial
    from artiagent.promotion.measure_reward import equal_rewards, measure_reward, rule_of_reward

    benchmark, section = config.inputs.benchmarks[0], config.evaluation
    ours, theirs = candidates.challenger, candidates.champion
    rewards = ours.kind == "reward"
    rule = (rule_of_reward if rewards else rule_of)(config.promotion)
    measured = measure_reward if rewards else measure
    try:
        if theirs and theirs.kind != ours.kind:
            raise ValueError(f"{ours.label} is a {ours.kind}, the champion a {theirs.kind}: no metric compares them")
        for side in (challenger, champion):
            if ERROR in side.summary:
                raise ValueError(side.summary[ERROR])
        revision = benchmark_sha256(benchmark)
        if ours.revision and ours.revision != revision:
            raise ValueError(
                f"benchmark {benchmark.name!r} is revision {revision[:12]} now, the challenger's registered scores are "
                f"on {ours.revision[:12]}: run it again on this revision, which registers it anew, then promote"
            )
        own = measured(section, benchmark, challenger, ours.sha256, ours.label)
        answers = equal_rewards(section, benchmark) if rewards else trivial(section, benchmark, own.prompts)
        other = measured(section, benchmark, champion, theirs.sha256, theirs.label) if theirs else answers
        return decide(
            own, other, rule, ours.audit, measurable(answers), resamples=section.resamples, seed=section.seed,
            benchmark=benchmark.name,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        return Decision(
            verdict="refused", reasons=(str(error),), challenger=ours.label,
            champion=theirs.label if theirs else TRIVIAL, challenger_sha256=ours.sha256,
            champion_sha256=theirs.sha256 if theirs else "", benchmark=benchmark.name, primary=rule.primary,
            guarded=rule.guarded, audit=ours.audit, audit_required=rule.audit_required,
        )  # fmt: skip


def count(client: MlflowClient, config: Config, order: Order, decision: Decision) -> tuple[str, Decision]:
    """Open the MLflow run of a decision; returns its id and the decision with the number of looks at its revision.

    Runs are only ever added, so the count needs no lock. It is over all names of this registry: whoever looks, looks.
    """
    title = f"promote {decision.challenger} against {decision.champion}"
    tags = {
        RUN: order.name, STAGE: "promotion", REVISION: decision.revision, COMPUTED: str(decision.computed).lower(),
        "gate.verdict": decision.verdict, "gate.decision": decision.digest, "gate.dry_run": str(order.dry_run).lower(),
    }  # fmt: skip
    run = client.create_run(experiment(client, config.profile), tags=tags, run_name=title).info.run_id
    if not decision.revision:
        return run, decision
    looks = len(looks_at(client, decision.revision))
    client.set_tag(run, "gate.count", str(looks))
    client.set_registered_model_tag(order.name, f"gating.{decision.revision[:16]}", str(looks))
    for found in decision.metrics:
        if found.difference is not None:
            client.log_metric(run, f"difference/{found.metric}", found.difference.value)
            client.log_metric(run, f"difference/{found.metric}.low", found.difference.low)
            client.log_metric(run, f"difference/{found.metric}.high", found.difference.high)
    return run, decision.model_copy(update={"gating_count": looks})


def looks_at(client: MlflowClient, revision: str) -> list[str]:
    """Ids of the MLflow runs whose decision compared models on this revision of a benchmark."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    wanted = f"tags.`{REVISION}` = '{revision}' and tags.`{COMPUTED}` = 'true'"
    found, token = [], None
    while True:
        page = client.search_runs(experiments, wanted, max_results=1000, page_token=token)
        found += [run.info.run_id for run in page]
        if not (token := page.token):
            return found


def intend(config: Config, order: Order, candidates: Candidates, decision: Decision, run: str) -> Promotion:
    """What is to be done about the decision; nothing has been yet."""
    state: State = "kept" if decision.verdict == "kept" else "refused"
    if order.dry_run:
        state = "dry run"
    elif order.reason:
        state = "done"
    elif decision.verdict == "promoted":
        state = "awaiting approval" if config.promotion.approval == "human" else "done"
    return Promotion(
        name=order.name, profile=config.profile, action="force" if order.reason else "promote", state=state,
        version=candidates.challenger.version, decision=decision, reason=order.reason, by=order.by, at=now(), run=run,
        previous=candidates.champion.version if candidates.champion else "",
    )  # fmt: skip


gate = effect_step(run)
