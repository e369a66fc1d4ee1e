"""Settles, before a run, what its configuration leaves to the machine: which metric, and digests of further weights.

A stage's cache key is its section, so what decides a result has to stand there: weights that a section names by place
enter by their sha256, and `metric: auto` becomes the metric that can be had here. Inputs are settled in `inputs`.
"""

from __future__ import annotations

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import Config, CurationSection, EvaluationSection, PerceptionSection, VlmSection


def settle(config: Config) -> tuple[Config, list[str]]:
    """The configuration with everything settled, and a line for each decision that a person should know of.

    Raises ValueError naming the key whose weights are not there.
    """
    perception = _perception(config.perception)
    curation, notes = _curation(config.curation)
    evaluation = _evaluation(config.evaluation)
    return config.model_copy(update={"perception": perception, "curation": curation, "evaluation": evaluation}), notes


def _perception(section: PerceptionSection) -> PerceptionSection:
    changes: dict[str, object] = {}
    if section.grounding != "annotations":
        from artiagent.perception.grounding.detect import settled_detection

        changes["detection"] = settled_detection(section)
    if section.vocabulary != "template":
        changes["vlm"] = _vlm(section.vlm, "perception.vlm")
    return section.model_copy(update=changes)


def _curation(section: CurationSection) -> tuple[CurationSection, list[str]]:
    from artiagent.curation.perceptual import settled_metric

    section, note = settled_metric(section)
    if section.judge != "none" or section.explain == "vlm":
        section = section.model_copy(update={"vlm": _vlm(section.vlm, "curation.vlm")})
    return section, [note] if note else []


def _evaluation(section: EvaluationSection) -> EvaluationSection:
    if section.sentence_encoder is None:
        return section
    found, given = _digest(section.sentence_encoder, "evaluation.sentence_encoder"), section.sentence_encoder_sha256
    if given not in (None, found):
        raise ValueError(f"evaluation.sentence_encoder: sha256 {found}, expected {given}; get the pinned encoder")
    return section.model_copy(update={"sentence_encoder_sha256": found})


def _vlm(section: VlmSection, setting: str) -> VlmSection:
    if section.backend != "local" or section.model is None or section.model_sha256 is not None:
        return section
    return section.model_copy(update={"model_sha256": _digest(section.model, f"{setting}.model")})


def _digest(location: str, key: str) -> str:
    try:
        return checkpoint_ref(key, location).sha256
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
