"""All outputs -> MLflow: runs, metrics, model versions with aliases. Idempotent by run name and weights."""

from __future__ import annotations

import json

from artiagent.config import Config
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport
from artiagent.store import runs_dir, write_atomic
from steps.stage import Ref, effect_step, run_name

REGISTERED = "registered.json"


def run(
    config: Config,
    inputs: DatasetRef,
    scenes: DatasetRef,
    jobs: DatasetRef,
    pairs: DatasetRef,
    curated: DatasetRef,
    conversations: DatasetRef,
    tuned: CheckpointRef,
    predictions_base: DatasetRef,
    predictions_tuned: DatasetRef,
    evaluation: EvaluationReport,
    reward: CheckpointRef,
) -> None:
    from artiagent.promotion.evidence import of_reward, of_vlm
    from steps.champion import mirror_stage
    from steps.registry import CHAMPION
    from steps.registry import register as register_model
    from steps.tracking import connect, log_run, scores

    name, client = run_name(), connect()
    refs: dict[str, Ref] = {
        "ingest": inputs, "perceive": scenes, "plan": jobs, "synthesize": pairs, "curate": curated,
        "instruct": conversations, "finetune": tuned, "evaluate_base": predictions_base,
        "evaluate_tuned": predictions_tuned, "score": evaluation, "train_reward": reward,
    }  # fmt: skip
    tracked = log_run(client, config, name, refs)
    rewards = {k: float(v) for k, v in reward.summary.items() if isinstance(v, (int, float)) and k.endswith("_value")}
    registered = [
        register_model(
            client, title, model, tracked.experiment_id, tracked.stages.get(stage, tracked.parent), metrics,
            {k: str(v) for k, v in model.summary.items() if k.startswith("lineage.")}, evidence,
        )
        for title, model, stage, metrics, evidence in (
            (config.registry.vlm_name, tuned, "finetune", scores(evaluation, "tuned"),
             of_vlm(config, curated, conversations, tuned, predictions_tuned, evaluation)),
            (config.registry.reward_name, reward, "train_reward", rewards,
             of_reward(config, curated, reward, evaluation)),
        )
    ]  # fmt: skip
    if registered[0].created and CHAMPION in registered[0].aliases:
        mirror_stage(tuned.summary.get("lineage.run", ""), "")
    content = json.dumps([r._asdict() for r in registered], indent=1)
    write_atomic(runs_dir() / name / REGISTERED, content.encode())


register = effect_step(run)
