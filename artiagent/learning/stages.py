"""One stage of fine-tuning in one process: a model, its data and a trainer, from the last whole checkpoint on.

Knows stages, adapters, frozen modules, checkpoints on disk and the curve. Does not know how many stages there are, how
many processes take part (`launch`) or what is exported (`export`).

A killed run goes on from the last checkpoint that is whole. The trainer writes into ``checkpoint-N`` directly, so a
folder counts only once `seal` has listed its files with their sizes; the one before it is kept for that reason.
"""

from __future__ import annotations

import gc
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm
from transformers import (
    AutoModelForImageTextToText,
    PreTrainedModel,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    set_seed,
)
from trl import SFTConfig

from artiagent.config import SftSection, SftStage
from artiagent.devices import has_native_bfloat16, torch_device, torch_dtype
from artiagent.instruction.prompts import NO, YES
from artiagent.learning.collate import ConversationCollator
from artiagent.learning.family import ModelFamily, family_of
from artiagent.learning.paired import PairedTrainer
from artiagent.learning.sharding import SPLIT_WEIGHTS, sharding_arguments
from artiagent.records import CheckpointRef, DatasetRef
from artiagent.sealed import CHECKPOINT, checkpoint_number, is_whole, seal
from artiagent.store import write_atomic

CURVES, WEIGHTS, CHECKPOINTS = "training.json", "weights", "checkpoints"
LOG_EVERY = 5  # steps
KEPT = ("loss", "mean_token_accuracy", "margin_loss", "pair_accuracy", "learning_rate", "grad_norm")
Report = Callable[[dict[str, Any]], None]


class StageJob(BaseModel):
    """All that a process needs to train a stage; JSON, so that other processes can be given it.

    Attributes:
        number: of the stage in ``section.stages``, from 0.
        weights: folder that the stage starts from: the base, or what the stage before left.
        folder: where checkpoints, ``weights/`` and the curve go.
        cache: folder of the memory-mapped copy of the conversations.
        checkpoint: that training goes on from, as `resumed` found it: the same for all processes.
    """

    model_config = ConfigDict(frozen=True)

    section: SftSection
    number: int
    conversations: DatasetRef
    base: CheckpointRef
    weights: Path
    folder: Path
    cache: Path
    checkpoint: Path | None = None

    @property
    def stage(self) -> SftStage:
        return self.section.stages[self.number]


def resumed(job: StageJob) -> StageJob:
    """The job from its last whole checkpoint on; newer ones that a kill left half-written are removed."""
    return job.model_copy(update={"checkpoint": last_checkpoint(job.folder / CHECKPOINTS)})


def train_stage(job: StageJob, rows: dict[str, Dataset], report: Report | None = None) -> None:
    """Train from ``job.weights``, or on from ``job.checkpoint``; leave ``weights/`` and the curve.

    Args:
        job: the stage.
        rows: splits "train" and "val" as `paired.paired_rows` gives them.
        report: called with every new point of the curve, by the first process only.
    """
    section = job.section
    set_seed(section.seed)
    family = family_of(job.base.uri)
    processor = family.load_processor(job.base.uri, section.image_pixels)
    done = job.checkpoint
    model = _trainable(job, family, done if done and section.method == "full" else job.weights)
    core = (model.get_base_model() if section.method == "lora" else model).base_model
    positions = getattr(core, "get_rope_index", None)
    trainer = PairedTrainer(
        model=model,
        args=training_arguments(section, job.stage, job.folder / CHECKPOINTS, family, model),
        data_collator=ConversationCollator(processor, section.max_length, section.context, positions),
        train_dataset=rows["train"],
        eval_dataset=rows["val"] if len(rows["val"]) else None,
        processing_class=processor,
        margin_weight=section.margin_weight if section.loss == "tokens+margin" else 0.0,
        answers=tuple(_single_token(processor, word) for word in (YES, NO)),
        paired=section.sampler == "paired",
        like_length=section.batch_pairs * section.world_size if section.group_by_length else 0,
        measured=section.sharding not in SPLIT_WEIGHTS,
        sealed=seal,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Watcher(job, report))
    trainer.train(resume_from_checkpoint=str(done) if done else None)
    if len(rows["val"]):
        trainer.evaluate()
    _keep(trainer, job)
    del trainer, model
    gc.collect()


def close_stage(job: StageJob) -> None:
    """Seal what a complete stage leaves: weights and curve; its checkpoints are of no more use."""
    if not is_whole(job.folder):
        shutil.rmtree(job.folder / CHECKPOINTS, ignore_errors=True)
        seal(job.folder)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; newer ones that a kill left half-written are removed."""
    for checkpoint in sorted(folder.glob(f"{CHECKPOINT}*"), key=checkpoint_step, reverse=True):
        if is_whole(checkpoint):
            return checkpoint
        shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def checkpoint_step(checkpoint: Path | None) -> int:
    """Optimizer steps that a checkpoint has behind it."""
    return (checkpoint_number(checkpoint.name) or 0) if checkpoint else 0


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A model folder's weights, safetensors only."""
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True)


def freeze(model: torch.nn.Module, family: ModelFamily, section: SftSection, train_vision: bool) -> None:
    """Freeze or unfreeze the vision encoder; of an adapted model only the adapters."""
    for name, parameter in model.named_parameters():
        if family.is_vision(name) and (section.method == "full" or "lora_" in name):
            parameter.requires_grad_(train_vision)


def adapter(section: SftSection) -> LoraConfig:
    """On every linear layer of vision encoder, projector and language model; the output embedding stays."""
    return LoraConfig(
        r=section.lora_rank,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def mixed_precision(section: SftSection) -> bool:
    """Whether matrix products run in bfloat16; emulated, on an old processor, it would be slower than float32."""
    if section.autocast != "auto":
        return section.autocast == "bfloat16"
    return has_native_bfloat16(torch_device(section.device))


def _trainable(job: StageJob, family: ModelFamily, weights: Path) -> Any:
    """Base model with the adapter (new, or of the stage before), or the whole model; the vision encoder frozen if
    asked.
    """
    section, base, dtype = job.section, Path(job.base.uri), torch_dtype(job.section.dtype)
    if section.method == "full":
        model = load_model(weights, dtype)
    elif weights == base:
        model = get_peft_model(load_model(weights, dtype), adapter(section))
    else:
        model = PeftModel.from_pretrained(load_model(base, dtype), weights, is_trainable=True)
    freeze(model, family, section, job.stage.train_vision)
    return model


def training_arguments(
    section: SftSection, stage: SftStage, checkpoints: Path, family: ModelFamily, model: torch.nn.Module
) -> SFTConfig:
    """The trainer's configuration of a stage."""
    device = torch_device(section.device)
    return SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=stage.epochs,
        max_steps=stage.max_steps,
        per_device_train_batch_size=2 * section.batch_pairs,
        per_device_eval_batch_size=2 * section.batch_pairs,
        gradient_accumulation_steps=section.accumulate,
        gradient_checkpointing=section.gradient_checkpointing,
        # reentrant checkpoints would need inputs with gradients, and with them a backward pass of the frozen encoder
        gradient_checkpointing_kwargs={"use_reentrant": False} if section.gradient_checkpointing else None,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_ratio,
        weight_decay=section.weight_decay,
        bf16=mixed_precision(section),
        fp16=False,
        use_cpu=device.type == "cpu",
        seed=section.seed,
        logging_steps=math.gcd(LOG_EVERY, section.save_steps),  # no point of the curve spans a checkpoint
        logging_first_step=True,
        save_steps=section.save_steps,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=section.workers,
        dataloader_pin_memory=device.type == "cuda",
        **sharding_arguments(section, family, model),
    )


def _keep(trainer: PairedTrainer, job: StageJob) -> None:
    """Weights first, then the curve, which says that the stage is complete."""
    if job.section.sharding == "none":
        if trainer.args.should_save:
            trainer.model.save_pretrained(job.folder / WEIGHTS)
    else:
        trainer.save_model(str(job.folder / WEIGHTS))  # gathers the shards
    trainer.accelerator.wait_for_everyone()
    if trainer.args.should_save:
        points = [curve_point(job.stage, entry) for entry in trainer.state.log_history]
        write_atomic(job.folder / CURVES, json.dumps([point for point in points if len(point) > 2]).encode())


def curve_point(stage: SftStage, entry: dict[str, Any]) -> dict[str, Any]:
    """One point of the curves, without wall-clock times: the folder's digest must not depend on them."""
    kept = {name: float(entry[name]) for stem in KEPT for name in (stem, f"eval_{stem}") if name in entry}
    return {"stage": stage.name, "step": int(entry["step"]), **kept}


def _single_token(processor: Any, word: str) -> int:
    ids = processor.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens in this tokenizer; the margin needs answers of one token")
    return ids[0]


class _Watcher(TrainerCallback):
    """One bar per stage, in samples: what the person waits for; and the curve as it grows."""

    def __init__(self, job: StageJob, report: Report | None) -> None:
        self.job, self.report, self.samples = job, report, job.section.samples_per_step

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        total, done = state.max_steps * self.samples, state.global_step * self.samples
        hidden = not state.is_world_process_zero
        self.bar = tqdm(
            desc=f"finetune {self.job.stage.name}", unit="sample", total=total, initial=done, disable=hidden
        )

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(self.samples)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        shown = {name: f"{logs[name]:.3f}" for name in ("loss", "pair_accuracy") if logs and name in logs}
        self.bar.set_postfix(shown, refresh=False)
        point = curve_point(self.job.stage, {**(logs or {}), "step": state.global_step})
        if self.report is not None and state.is_world_process_zero and len(point) > 2:
            self.report(point)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()
