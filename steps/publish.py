"""Curated data set with its card -> its own DVC remote. Idempotent by digest."""

from __future__ import annotations

from artiagent.config import RegistrySection
from artiagent.records import DatasetRef
from steps.stage import effect_step


def run(section: RegistrySection, curated: DatasetRef) -> None:
    from artiagent.publish import publish

    publish(curated, section.dataset_remote, acknowledged=section.acknowledge_noncommercial)


publish = effect_step(run)
