"""Scenes -> how well inversion and replay bring them back, by solver and number of steps."""

from __future__ import annotations

from typing import Annotated

from artiagent.ablation.rows import ReconstructionSection
from artiagent.config import CurationSection, SynthesisSection
from artiagent.records import CheckpointRef, DatasetRef
from steps.stage import cached_step, out_dir


def run(
    section: ReconstructionSection,
    synthesis: SynthesisSection,
    curation: CurationSection,
    scenes: DatasetRef,
    generator: CheckpointRef,
) -> Annotated[DatasetRef, "reconstructions"]:
    from artiagent.ablation.reconstruct import reconstruct

    out = out_dir("reconstructions", __name__, section, synthesis, curation, scenes, generator)
    return reconstruct(section, synthesis, curation, scenes, generator, out)


reconstruct = cached_step(run)
