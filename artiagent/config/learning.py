"""From curated pairs to models and their scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from artiagent.config.agents import VlmSection
from artiagent.config.section import Section


class InstructionSection(Section):
    seed: int = 0
    val_share: float = Field(default=0.2, ge=0, lt=1)
    hard_negatives: bool = True
    pairs: int | None = Field(default=None, ge=1)  # use this many accepted pairs, the tools in turn; None: all
    turns: tuple[Literal["binary", "locate", "region", "explain"], ...] = ("binary", "locate", "region", "explain")


class SftStage(Section):
    name: str
    train_vision: bool
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int = -1  # above 0 it replaces epochs, so that the time does not grow with the data
    learning_rate: float = 1e-5


class SftSection(Section):
    # full: a small base has never said the words of an explanation, and an adapter leaves the embeddings as they are
    method: Literal["lora", "full"] = "full"
    stages: tuple[SftStage, ...] = (
        SftStage(name="language", train_vision=False, epochs=2, learning_rate=1e-3),
        SftStage(name="vision", train_vision=True, epochs=1.5, learning_rate=3e-4),
    )
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    sampler: Literal["paired", "shuffled"] = "paired"
    loss: Literal["tokens", "tokens+margin"] = "tokens"
    margin_weight: float = 1.0
    mirror: bool = True  # an epoch shows every pair twice, once mirrored left to right
    batch_pairs: int = Field(default=8, ge=1)
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    accumulate: int = Field(default=1, ge=1)  # batches per optimizer step
    # alone: every turn sees the image and itself only, as when it is asked
    context: Literal["dialogue", "alone"] = "alone"
    max_length: int = 2048
    image_pixels: int | None = Field(default=None, ge=1)  # budget per image; None: the base processor's
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the weights
    autocast: Literal["auto", "none", "bfloat16"] = "auto"  # auto: bfloat16 where the device computes in it natively
    gradient_checkpointing: bool = False
    seed: int = 0
    device: str = "auto"
    threads: int = Field(default=2, ge=1)
    workers: int = Field(default=0, ge=0)  # processes that collate
    save_steps: int = 50
    group_by_length: bool = False  # batches of rows of like length; pairs stay together
    processes: int = Field(default=1, ge=1)  # on this machine, one per accelerator; they share the batch's accumulation
    nodes: int = Field(default=1, ge=1)  # machines with ``processes`` each
    sharding: Literal["none", "fsdp", "zero2", "zero3"] = "none"  # of weights and optimizer over the processes

    @property
    def world_size(self) -> int:
        """Processes that train together, of all nodes."""
        return self.nodes * self.processes

    @property
    def samples_per_step(self) -> int:
        """Conversations of an optimizer step, over all processes; a pair has two."""
        return 2 * self.batch_pairs * self.accumulate * self.world_size


class EvaluationSection(Section):
    resamples: int = Field(default=10_000, ge=100)
    seed: int = 0
    batch_size: int = Field(default=16, ge=1)
    max_new_tokens: int = Field(default=96, ge=1)  # of an explanation
    max_box_tokens: int = Field(default=64, ge=1)
    sentence_encoder: str | None = None  # folder of paraphrase-MiniLM-L6-v2 or alike; without it CSS is left out
    sentence_encoder_sha256: str | None = None  # checked where given; filled in when a run is submitted
    tasks: tuple[Literal["detection", "localization", "explanation"], ...] = (
        "detection", "localization", "explanation",
    )  # fmt: skip
    # trained: the bare questions of fine-tuning. defined: what an artifact is and which types there are come first, and
    # answers are asked for as strict JSON: what a model needs that was never trained here
    prompts: Literal["trained", "defined"] = "trained"
    vlm: VlmSection = VlmSection(backend="openai")  # how a served model (--model openai:NAME) is reached
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = Field(default=2, ge=1)
    limit: int | None = None  # the first so many items of every benchmark


class RewardSection(Section):
    """Verifiers of images, trained on pairs by the Bradley-Terry loss (spec: training, "Reward model")."""

    tower: Literal["clip", "vlm"] = "vlm"  # of inputs.clip, or of inputs.vlm as it is before fine-tuning
    # frozen: its features are computed once. cnn: a small tower of convolutions from nothing, in the place of ``tower``
    encoder: Literal["frozen", "lora", "full", "cnn"] = "frozen"
    # What the head sees: pooled, the paper's: the tower's summary. patches: with mean and maximum of the cells. tokens:
    # every cell, the worst decide. tokens+whole: the mean of that and of a head on the summary. crops: 3x3 overlapping
    # crops, each beside the whole picture, the worst decide.
    pooling: Literal["pooled", "patches", "tokens", "tokens+whole", "crops"] = "tokens+whole"
    side: int | None = Field(default=None, ge=32)  # px of the square that a tower for any size sees; None: its model's
    hidden: int = Field(default=128, ge=1)
    width: int = Field(default=64, ge=16, multiple_of=16)  # of the cnn
    lora_rank: int = Field(default=8, ge=1)
    members: int = Field(default=2, ge=1, le=8)  # verifiers, each trained on its own part of the training sources
    cross_scene: int | Literal["all"] = "all"  # clean of A against artifact of B: so many per batch, or all of it
    cells: float = Field(default=1.0, ge=0)  # weight of saying for every cell whether the fault is there
    margin: Literal["none", "change"] = "none"  # change: rewards part the further, the more the fault changed
    benign: int = Field(default=0, ge=0)  # benign injections per batch, both sides as further clean images
    views: int = Field(default=2, ge=1)  # of every pair: as it is, mirrored, and random ones from the third on
    learning_rate: float = Field(default=1e-3, gt=0)
    encoder_rate: float = Field(default=1e-4, gt=0)  # of a tower that is trained and does not start from nothing
    schedule: Literal["constant", "cosine"] = "cosine"
    weight_decay: float = Field(default=0.05, ge=0)
    l2: float = Field(default=0.0, ge=0)  # of the head's weights, in the loss
    batch: int = Field(default=16, ge=2)  # pairs
    epochs: int = Field(default=15, ge=1)
    val_share: float = Field(default=0.25, gt=0, lt=1)
    seed: int = 0
    resamples: int = Field(default=10_000, ge=100)
    device: str = "auto"
    threads: int = Field(default=2, ge=1)
