"""Settles, before a run, what its configuration leaves to the machine: which metric, and the digests of further weights.

A stage's cache key is its section, so what decides a result has to stand there: weights that a section names by place
enter by their sha256, and `metric: auto` becomes the metric that can be had here. Inputs are settled in `inputs`.
"""

from __future__ import annotations

from pathlib import Path

from artiagent.checkpoints import locate
from artiagent.config import Config, CurationSection, DetectionSection, PerceptionSection, VlmSection
from artiagent.store import file_sha256, folder_sha256


def settle(config: Config) -> tuple[Config, list[str]]:
    """The configuration with everything settled, and a line for each decision that a person should know of.

    Raises ValueError naming the key whose weights are not there.
    """
    perception = _perception(config.perception)
    curation, notes = _curation(config.curation)
    return config.model_copy(update={"perception": perception, "curation": curation}), notes


def _perception(section: PerceptionSection) -> PerceptionSection:
    changes: dict[str, object] = {}
    if section.grounding != "annotations":
        changes["detection"] = _detection(section.detection, section.grounding)
    if section.vocabulary != "template":
        changes["vlm"] = _vlm(section.vlm, "perception.vlm")
    return section.model_copy(update=changes)


def _detection(section: DetectionSection, grounding: str) -> DetectionSection:
    """The weights' digests, unless they are given: then the loader checks them."""
    wanted = ["detector", "segmenter"]
    if section.boxes == "detector" and grounding == "grounded_sam":
        wanted.append("text_encoder")
    changes = {}
    for name in wanted:
        key = f"{name}_sha256"
        if getattr(section, name) and getattr(section, key) is None:
            changes[key] = _digest(getattr(section, name), f"perception.detection.{name}")
    return section.model_copy(update=changes)


def _curation(section: CurationSection) -> tuple[CurationSection, list[str]]:
    from artiagent.curation.perceptual import settled_metric

    section, note = settled_metric(section)
    if section.judge != "none" or section.explain == "vlm":
        section = section.model_copy(update={"vlm": _vlm(section.vlm, "curation.vlm")})
    return section, [note] if note else []


def _vlm(section: VlmSection, setting: str) -> VlmSection:
    if section.backend != "local" or section.model is None or section.model_sha256 is not None:
        return section
    return section.model_copy(update={"model_sha256": _digest(section.model, f"{setting}.model")})


def _digest(location: str, key: str) -> str:
    try:
        place = locate(location)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    return file_sha256(place) if Path(place).is_file() else folder_sha256(place)
