"""All outputs -> ``runs/<name>/report.html`` and ``summary.json``. Written anew in every run."""

from __future__ import annotations

import json

from artiagent.config import Config
from artiagent.pointers import find_pointer
from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport
from artiagent.store import runs_dir
from steps.register import REGISTERED
from steps.stage import effect_step, run_name


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
    from artiagent.report import write_report
    from steps.tracking import connect, log_files

    name = run_name()
    folder = runs_dir() / name
    pointer = find_pointer(curated.digest, remote=config.registry.dataset_remote)
    bundle = {
        "name": name,
        "config": config,
        "refs": {
            "ingest": inputs, "perceive": scenes, "plan": jobs, "synthesize": pairs, "curate": curated,
            "instruct": conversations, "finetune": tuned, "evaluate_base": predictions_base,
            "evaluate_tuned": predictions_tuned, "score": evaluation, "train_reward": reward,
        },
        "lineage": json.loads((folder / "run.json").read_text()),
        "published": pointer.model_dump() if pointer else {},
        "registered": json.loads((folder / REGISTERED).read_text()),
    }  # fmt: skip
    write_report(folder, bundle)
    log_files(connect(), config, name, folder)


report = effect_step(run)
