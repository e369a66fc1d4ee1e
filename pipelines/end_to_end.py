"""The whole mission as one pipeline: images, scenes, plan, pairs, curated set, models, scores, registry."""

from __future__ import annotations

from zenml import pipeline
from zenml.enums import ExecutionMode

from artiagent.config import Config
from steps.alerts import on_failure
from steps.curate import curate
from steps.evaluate_base import evaluate_base
from steps.evaluate_tuned import evaluate_tuned
from steps.finetune import finetune
from steps.ingest import ingest
from steps.instruct import instruct
from steps.perceive import perceive
from steps.plan import plan
from steps.publish import publish
from steps.register import register
from steps.report import report
from steps.score import score
from steps.synthesize import synthesize
from steps.train_reward import train_reward

CACHED = (
    "ingest", "perceive", "plan", "synthesize", "curate", "instruct", "finetune", "evaluate_base", "evaluate_tuned",
    "score", "train_reward",
)  # fmt: skip
EFFECTS = ("publish", "register", "report")


@pipeline(name="artiagent", execution_mode=ExecutionMode.FAIL_FAST, enable_pipeline_logs=False, on_failure=on_failure)
def end_to_end(config: Config, digests: dict[str, str]) -> None:
    """Every stage receives its own section; a section that did not change leaves its stage cached."""
    inputs, generator, vlm, clip, benchmarks = ingest(config.inputs, digests)
    scenes = perceive(config.perception, inputs, vlm)
    jobs = plan(config.planning, scenes, config.perception.patch)
    pairs = synthesize(config.synthesis, scenes, jobs, generator)
    curated = curate(config.curation, pairs, scenes, vlm)
    publish(config.registry, curated)
    conversations = instruct(config.instruction, curated, scenes)
    tuned = finetune(config.sft, conversations, vlm)
    predictions_base = evaluate_base(config.evaluation, vlm, benchmarks)
    predictions_tuned = evaluate_tuned(config.evaluation, tuned, benchmarks)
    evaluation = score(config.evaluation, benchmarks, predictions_base, predictions_tuned)
    reward = train_reward(config.reward, curated, vlm if config.reward.tower == "vlm" else clip, benchmarks)
    results = {
        "inputs": inputs, "scenes": scenes, "jobs": jobs, "pairs": pairs, "curated": curated,
        "conversations": conversations, "tuned": tuned, "predictions_base": predictions_base,
        "predictions_tuned": predictions_tuned, "evaluation": evaluation, "reward": reward,
    }  # fmt: skip
    register(config, **results)
    report(config, **results, after=["register", "publish"])
