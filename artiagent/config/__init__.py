"""One typed configuration, one section per stage; the defaults of the project live here and nowhere else.

Every stage receives only its own section, so that changing one section leaves the other stages' cache keys alone. How
a tree of sections is read from a file: `run_config`.
"""

from __future__ import annotations

from typing import Literal

from artiagent.config.agents import VlmSection
from artiagent.config.inputs import BenchmarkLayout, BenchmarkSet, InputSet, InputsSection, Layout
from artiagent.config.learning import EvaluationSection, InstructionSection, RewardSection, SftSection, SftStage
from artiagent.config.making import (
    CurationSection,
    DetectionSection,
    PerceptionSection,
    PlanningSection,
    SynthesisSection,
    ToolFractions,
)
from artiagent.config.mitigation import AuditedPlace, AuditSection, CorrectionSection, SearchSection
from artiagent.config.registry import Metric, PromotionSection, RegistrySection, RewardMetric
from artiagent.config.scale import ScaleSection, Sharded
from artiagent.config.section import Section, transport

__all__ = [
    "AuditSection", "AuditedPlace", "BenchmarkLayout", "BenchmarkSet", "Config", "CorrectionSection",
    "CurationSection", "DetectionSection", "EvaluationSection", "InputSet", "InputsSection", "InstructionSection",
    "Layout", "Metric", "PerceptionSection", "PlanningSection", "PromotionSection", "RegistrySection", "RewardMetric",
    "RewardSection", "ScaleSection", "SearchSection", "Section", "SftSection", "SftStage", "Sharded",
    "SynthesisSection", "ToolFractions", "VlmSection", "transport",
]  # fmt: skip


class Config(Section):
    """The whole tree. ``profile`` names the scale: models of different profiles never compete."""

    profile: str = "nano"
    preset: Literal["fast", "paper"] = "fast"  # of planning and synthesis, see artiagent/presets.py
    inputs: InputsSection = InputsSection()
    perception: PerceptionSection = PerceptionSection()
    planning: PlanningSection = PlanningSection()
    synthesis: SynthesisSection = SynthesisSection()
    curation: CurationSection = CurationSection()
    instruction: InstructionSection = InstructionSection()
    sft: SftSection = SftSection()
    evaluation: EvaluationSection = EvaluationSection()
    reward: RewardSection = RewardSection()
    search: SearchSection = SearchSection()
    correction: CorrectionSection = CorrectionSection()
    audit: AuditSection = AuditSection()
    scale: ScaleSection = ScaleSection()
    registry: RegistrySection = RegistrySection()
    promotion: PromotionSection = PromotionSection()
