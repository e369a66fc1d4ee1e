"""Labels, explanations and captions of curated pairs (spec: perception and curation, section 5).

Knows what is asked of the writing agent and what it may be told. Does not know who writes: any `Vlm` may.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from artiagent.records import Artifact, Pair
from artiagent.vlm.protocol import Prompt, Vlm

CLEAN_LABEL = "clean"

_LABEL = "Name what looks wrong in the box {box} of the image in a brief phrase."
_LOCAL = (
    "Explain to a layperson what looks wrong in the box {box} of the image. Do not name the type of the fault or how "
    "it came about."
)
_GLOBAL = (
    "These places of the image look wrong: {faults}. Explain in two or three sentences why, by common sense. Give no "
    "coordinates and no concluding sentence."
)
_CAPTION = "Describe the image in one sentence."
_TOKENS = 96


class SceneFacts(NamedTuple):
    """What perception knows of a source: its caption (may be empty) and the names of its entities."""

    caption: str
    entities: tuple[str, ...]


def explain(writer: Vlm, pair: Pair, clean: np.ndarray, image: np.ndarray, scene: SceneFacts) -> Pair:
    """Label and explain the accepted artifacts, and caption the clean side.

    Args:
        writer: backend that writes.
        pair: pair with verdicts.
        clean, image: twin and artifact image, uint8 [H, W, 3].
        scene: what is known about the source.
    """
    artifacts = tuple(_explained(writer, pair, index, image) for index in range(len(pair.artifacts)))
    pair = pair.model_copy(update={"artifacts": artifacts})
    caption = Prompt("caption", _CAPTION, scene._asdict(), pair.job_id)
    return pair.model_copy(
        update={
            "caption": writer.generate([clean], [caption], _TOKENS)[0],
            "explanation": _overall(writer, pair, image) if pair.faults else "",
        }
    )


def _explained(writer: Vlm, pair: Pair, index: int, image: np.ndarray) -> Artifact:
    artifact = pair.artifacts[index]
    if artifact.injection.tool == "benign":
        return artifact.model_copy(update={"label": CLEAN_LABEL})
    if not artifact.accepted:
        return artifact
    box = writer.space(pair.width, pair.height).to_model(artifact.box)
    facts, seed = _facts(artifact), f"{pair.job_id}:{index}"
    prompts = [
        Prompt("label", _LABEL.format(box=box), facts, seed),
        Prompt("local", _LOCAL.format(box=box), facts, seed),
    ]
    label, explanation = writer.generate([image, image], prompts, _TOKENS)
    return artifact.model_copy(update={"label": label, "explanation": explanation})


def _overall(writer: Vlm, pair: Pair, image: np.ndarray) -> str:
    space = writer.space(pair.width, pair.height)
    named = "; ".join(f"{space.to_model(a.box)}: {a.explanation}" for a in pair.faults)
    facts = {"faults": [_facts(a) for a in pair.faults]}
    return writer.generate([image], [Prompt("global", _GLOBAL.format(faults=named), facts, pair.job_id)], _TOKENS)[0]


def _facts(artifact: Artifact) -> dict[str, str]:
    injection = artifact.injection
    return {
        "tool": injection.tool,
        "entity": injection.entity,
        "part": injection.part,
        "other": injection.other_entity,
    }
