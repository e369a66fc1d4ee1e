"""Where results go, and who becomes champion."""

from __future__ import annotations

from typing import Literal

from artiagent.config.section import Section


class RegistrySection(Section):
    vlm_name: str = "artiagent-vlm-nano"
    reward_name: str = "artiagent-reward-nano"
    dataset_remote: str = "remote"  # folder below the project's home, or a DVC URL such as s3://bucket/prefix
    acknowledge_noncommercial: bool = False  # publish sets that hold non-commercial material
    trace_calls: bool = True  # every agent call as a span in MLflow


Metric = Literal[
    "accuracy", "macro_f1", "auroc", "recall_at_10", "iou", "pixel_f1", "box_f1", "rouge_l", "css", "grounded_recall"
]

RewardMetric = Literal["auroc", "auroc_by_entity", "recall_at_10"]


class PromotionSection(Section):
    """The gate between challenger and champion (``artiagent promote``)."""

    primary: Metric = "macro_f1"  # must be won: the interval of the paired difference lies above 0
    guarded: tuple[Metric, ...] = ("auroc", "iou", "rouge_l", "grounded_recall")  # none may be lost significantly
    reward_primary: RewardMetric = "auroc"  # of reward models
    reward_guarded: tuple[RewardMetric, ...] = ("auroc_by_entity", "recall_at_10")
    audit: Literal["required", "reported"] = "required"  # the shortcut audit of the challenger's training data
    approval: Literal["none", "human"] = "none"  # human: the pipeline waits for a person after the gate
