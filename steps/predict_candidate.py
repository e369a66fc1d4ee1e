"""A registered version's answers on the primary benchmark: those of its run where they match, else made once and kept.
Of a reward model: the rewards of its images.

What goes wrong here is no failure of the pipeline: the gate refuses with the reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from artiagent.config import Config
from artiagent.lineage import stage_digest
from artiagent.mitigation.judges import Judge
from artiagent.promotion.records import Candidate, Candidates
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.store import dataset_dir, open_dataset
from steps.stage import effect_step, source_root

ERROR = "error"  # in the summary, of predictions that could not be made
EVALUATED_BY = "steps.evaluate_tuned"
REWARDED_BY = "artiagent.learning.reward"


def run(
    config: Config, name: str, candidates: Candidates, side: Literal["challenger", "champion"]
) -> Annotated[DatasetRef, "gate_predictions"]:
    from artiagent.evaluation.benchmarks import benchmark_sha256
    from artiagent.promotion.measure import REVISION

    candidate = getattr(candidates, side)
    nothing = DatasetRef(kind="predictions", uri="", digest="", rows=0)
    if candidate is None:
        return nothing
    try:
        revision = benchmark_sha256(config.inputs.benchmarks[0])
        if candidate.kind == "reward":
            found = _reward(config, name, candidate, revision)
        else:
            found = _of_its_run(config, candidate) or _predict(config, name, candidate, revision)
    except (ValueError, OSError) as error:
        return nothing.model_copy(update={"summary": {ERROR: str(error)}})
    return found.model_copy(update={"summary": {**found.summary, REVISION: revision}})


def _of_its_run(config: Config, candidate: Candidate) -> DatasetRef | None:
    """Answers that the run gave, if today's sources, settings and benchmarks would give the same."""
    from artiagent.evaluation.stage import predict

    folder = Path(candidate.predictions)
    if candidate.predictions_code != stage_digest(EVALUATED_BY, source_root()) or not folder.is_dir():
        return None
    model = CheckpointRef(name="tuned", uri="", sha256=candidate.sha256)
    try:
        if open_dataset(folder) is None:
            return None
        return predict(config.evaluation, model, config.inputs.benchmarks, folder, "tuned")
    except ValueError:  # of other settings or another revision, or damaged
        return None


def _predict(config: Config, name: str, candidate: Candidate, revision: str) -> DatasetRef:
    from artiagent.evaluation.stage import predict

    code = stage_digest(EVALUATED_BY, source_root())
    out = dataset_dir("predictions-gate", config.evaluation.digest(), candidate.sha256, revision, code)
    model = CheckpointRef(name=candidate.label, uri="", sha256=candidate.sha256)
    if open_dataset(out) is None:
        model = _weights(name, candidate)
    return predict(config.evaluation, model, config.inputs.benchmarks[:1], out, candidate.label)


def _reward(config: Config, name: str, candidate: Candidate, revision: str) -> DatasetRef:
    """Rewards are cheap to make again: whether those of its run would be the same is not asked."""
    from artiagent.learning.reward import open_reward
    from artiagent.promotion.measure_reward import reward_items

    limit, code = config.evaluation.limit, stage_digest(REWARDED_BY, source_root())
    out = dataset_dir("rewards-gate", candidate.sha256, revision, str(limit), code)

    def scorer() -> Judge:
        return open_reward(_weights(name, candidate), device=config.reward.device)

    return reward_items(config.inputs.benchmarks[0], limit, scorer, candidate.sha256, out)


def _weights(name: str, candidate: Candidate) -> CheckpointRef:
    """The version's folder. Raises ValueError when its files are not those that were registered."""
    from steps.registry import download

    model = download(f"models:/{name}/{candidate.version}")
    if model.sha256 != candidate.sha256:
        raise ValueError(
            f"models:/{name}/{candidate.version}: its files have sha256 {model.sha256[:12]}, registered were "
            f"{candidate.sha256[:12]}; delete {model.uri} and run again"
        )
    return model


predict_candidate = effect_step(run)
