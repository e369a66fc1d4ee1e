"""Stage "finetune": TRL + PEFT from a base checkpoint, in two stages (vision encoder frozen, then unfrozen).

Knows stages, adapters, checkpoints on disk and curves. Does not know how conversations become tokens (`collate`) or how
pairs share a batch (`paired`). One adapter lives through both stages; at the end it is merged and a full model folder
is written.
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm import tqdm
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    PrinterCallback,
    ProcessorMixin,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import SftSection, SftStage
from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.instruction.prompts import NO, YES
from artiagent.learning.collate import ConversationCollator
from artiagent.learning.paired import PairedTrainer
from artiagent.records import CheckpointRef, Conversation, DatasetRef, stable_hash
from artiagent.store import open_dataset, read_rows, write_atomic

VISION = (".visual.", ".vision_tower.", ".vision_model.")
PROJECTOR = (".merger.", ".multi_modal_projector.")
CURVES, STAMP = "training.json", "finetune.json"


def finetune(section: SftSection, conversations: DatasetRef, base: CheckpointRef, out: Path) -> CheckpointRef:
    """Fine-tune ``base``; ``out`` gets the full model folder, processor, ``adapter/`` (LoRA) and ``training.json``.

    Resumes after a kill: finished stages are kept, an unfinished one goes on from its last checkpoint. Raises
    ValueError when ``out`` belongs to other inputs, or when a training conversation lacks its twin.
    """
    stamp = stable_hash(section.digest(), conversations.digest, base.sha256)
    if (out / STAMP).is_file():
        return _complete(out, stamp, base)
    use_threads(section.threads)
    work = out / "stages" / stamp[:12]
    rows = {
        split: _paired_rows(conversations, split, work / "cache", mirror=section.mirror and split == "train")
        for split in ("train", "val")
    }
    if not len(rows["train"]):
        raise ValueError(
            f"{conversations.uri}: no training conversations; lower instruction.val_share or make more pairs"
        )
    curves: list[dict[str, Any]] = []
    weights, started, seen = Path(base.uri), time.monotonic(), 0
    for number, stage in enumerate(section.stages):
        folder = work / f"{number}-{stage.name}"
        if not (folder / CURVES).is_file():
            seen += _train_stage(section, stage, rows, base=base, weights=weights, folder=folder)
        curves += json.loads((folder / CURVES).read_text())
        weights = folder / "weights"
    speed = seen / (time.monotonic() - started)
    _export(section, base, weights, out)
    write_atomic(out / CURVES, json.dumps(curves, indent=1).encode())
    made = {"stamp": stamp, "method": section.method, "base_sha256": base.sha256, "bfloat16": mixed_precision(section)}
    write_atomic(out / STAMP, json.dumps(made, indent=1).encode())
    return _complete(out, stamp, base, {"samples_per_second": round(speed, 2)})


def _complete(
    out: Path, stamp: str, base: CheckpointRef, figures: dict[str, float | int | str] | None = None
) -> CheckpointRef:
    found = json.loads((out / STAMP).read_text())["stamp"]
    if found != stamp:
        raise ValueError(
            f"{out}: holds a model made from other inputs ({found[:12]}, expected {stamp[:12]}); use another folder"
        )
    shutil.rmtree(out / "stages", ignore_errors=True)
    curves = json.loads((out / CURVES).read_text())
    last = {name: value for point in curves for name, value in point.items() if name != "stage"}
    ref = checkpoint_ref("tuned", str(out))
    return ref.model_copy(update={"base_sha256": base.sha256, "summary": {**last, **(figures or {})}})


def _paired_rows(conversations: DatasetRef, split: str, cache: Path, *, mirror: bool) -> Dataset:
    """Memory-mapped rows (record, image, mirrored) of a split, artifact side at 2k and its twin at 2k + 1, ordered by
    pair id; with ``mirror`` all of them once more, to be mirrored."""
    open_dataset(Path(conversations.uri))
    sides: dict[str, dict[bool, int]] = {}
    for index, row in enumerate(read_rows(conversations, Conversation, ())):
        if row.record.split == split:
            sides.setdefault(row.record.pair_id, {})[row.record.faulty] = index
    if torn := sorted(pair for pair, both in sides.items() if len(both) != 2):
        raise ValueError(
            f"{conversations.uri}: {len(torn)} pairs lack a side (first: {torn[0]}); rebuild the conversations"
        )
    if not sides:
        return Dataset.from_list([])
    files = sorted(str(path) for path in Path(conversations.uri).glob("*-of-*.parquet"))
    dataset = Dataset.from_parquet(files, cache_dir=str(cache))
    order = [sides[pair][faulty] for pair in sorted(sides) for faulty in (True, False)]
    versions = [
        dataset.add_column("mirrored", [flag] * len(dataset)) for flag in ((False, True) if mirror else (False,))
    ]
    starts = [index * len(dataset) for index in range(len(versions))]
    return concatenate_datasets(versions).select([start + row for start in starts for row in order])


def _train_stage(
    section: SftSection, stage: SftStage, rows: dict[str, Dataset], *, base: CheckpointRef, weights: Path, folder: Path
) -> int:
    """Train from ``weights``; leave ``weights/`` and the curve in ``folder``. Returns the samples seen in this run."""
    set_seed(section.seed)
    processor = load_processor(section, base)
    done = get_last_checkpoint(str(folder / "checkpoints")) if (folder / "checkpoints").is_dir() else None
    model = _trainable(section, stage, base, Path(done) if done and section.method == "full" else weights)
    core = (model.get_base_model() if section.method == "lora" else model).base_model
    positions = getattr(core, "get_rope_index", None)
    trainer = PairedTrainer(
        model=model,
        args=_arguments(section, stage, folder / "checkpoints"),
        data_collator=ConversationCollator(processor, section.max_length, section.context, positions),
        train_dataset=rows["train"],
        eval_dataset=rows["val"] if len(rows["val"]) else None,
        processing_class=processor,
        margin_weight=section.margin_weight if section.loss == "tokens+margin" else 0.0,
        answers=tuple(_single_token(processor, word) for word in (YES, NO)),
        paired=section.sampler == "paired",
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(stage, 2 * section.batch_pairs * section.accumulate))
    before = int(done.rsplit("-", 1)[1]) if done else 0
    trainer.train(resume_from_checkpoint=done)
    if len(rows["val"]):
        trainer.evaluate()
    trainer.model.save_pretrained(folder / "weights")
    points = [_point(stage, entry) for entry in trainer.state.log_history]
    write_atomic(folder / CURVES, json.dumps([point for point in points if len(point) > 2]).encode())
    seen = (trainer.state.global_step - before) * 2 * section.batch_pairs * section.accumulate
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    del trainer, model
    gc.collect()
    return seen


def _trainable(section: SftSection, stage: SftStage, base: CheckpointRef, weights: Path) -> Any:
    """Base model with the adapter (new, or of the stage before), or the whole model; the vision encoder frozen if
    asked.
    """
    dtype = torch_dtype(section.dtype)
    if section.method == "full":
        model = _load(weights, dtype)
    elif weights == Path(base.uri):
        model = get_peft_model(_load(weights, dtype), _adapter(section))
    else:
        model = PeftModel.from_pretrained(_load(Path(base.uri), dtype), weights, is_trainable=True)
    for name, parameter in model.named_parameters():
        if is_vision(name) and (section.method == "full" or "lora_" in name):
            parameter.requires_grad_(stage.train_vision)
    if section.gradient_checkpointing:
        model.enable_input_require_grads()
    return model


def is_vision(name: str) -> bool:
    """Whether a parameter belongs to the vision encoder; its projector to the language model does not."""
    dotted = f".{name}"
    return any(mark in dotted for mark in VISION) and not any(mark in dotted for mark in PROJECTOR)


def load_processor(section: SftSection, base: CheckpointRef) -> ProcessorMixin:
    """The base's processor with the image budget. Raises ValueError where its size is not counted in pixels."""
    processor = AutoProcessor.from_pretrained(base.uri)
    if section.image_pixels is not None:
        size = dict(processor.image_processor.size)
        if "longest_edge" not in size:
            raise ValueError(
                f"{base.uri}: image budget in pixels is not known for size {size}; set sft.image_pixels to null"
            )
        processor.image_processor.size = {**size, "longest_edge": section.image_pixels}
    return processor


def _load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, use_safetensors=True)


def _adapter(section: SftSection) -> LoraConfig:
    """On every linear layer of vision encoder, projector and language model; the output embedding stays."""
    return LoraConfig(
        r=section.lora_rank,
        lora_alpha=section.lora_alpha,
        lora_dropout=section.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _arguments(section: SftSection, stage: SftStage, folder: Path) -> SFTConfig:
    device = torch_device(section.device)
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=stage.epochs,
        max_steps=stage.max_steps,
        per_device_train_batch_size=2 * section.batch_pairs,
        per_device_eval_batch_size=2 * section.batch_pairs,
        gradient_accumulation_steps=section.accumulate,
        gradient_checkpointing=section.gradient_checkpointing,
        learning_rate=stage.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=section.warmup_ratio,
        weight_decay=section.weight_decay,
        bf16=mixed_precision(section),
        fp16=False,
        use_cpu=device.type == "cpu",
        seed=section.seed,
        logging_steps=5,
        logging_first_step=True,
        save_steps=section.save_steps,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        dataloader_num_workers=section.workers,
        dataloader_pin_memory=device.type == "cuda",
    )


def mixed_precision(section: SftSection) -> bool:
    """Whether matrix products run in bfloat16; emulated, on an old processor, it would be slower than float32."""
    if section.autocast != "auto":
        return section.autocast == "bfloat16"
    if torch_device(section.device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities()
    return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def _single_token(processor: Any, word: str) -> int:
    ids = processor.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(f"{word!r} is {len(ids)} tokens in this tokenizer; the margin needs answers of one token")
    return ids[0]


def _point(stage: SftStage, entry: dict[str, Any]) -> dict[str, Any]:
    """One point of the curves, without wall-clock times: the folder's digest must not depend on them."""
    names = ("loss", "mean_token_accuracy", "margin_loss", "pair_accuracy", "learning_rate", "grad_norm")
    kept = {name: float(entry[name]) for stem in names for name in (stem, f"eval_{stem}") if name in entry}
    return {"stage": stage.name, "step": int(entry["step"]), **kept}


def _export(section: SftSection, base: CheckpointRef, weights: Path, out: Path) -> None:
    dtype = torch_dtype(section.dtype)
    if section.method == "lora":
        merged = PeftModel.from_pretrained(_load(Path(base.uri), dtype), weights).merge_and_unload()
        _keep_adapter(weights, out / "adapter", base)
    else:
        merged = _load(weights, dtype)
    merged.save_pretrained(out)
    load_processor(section, base).save_pretrained(out)


def _keep_adapter(weights: Path, folder: Path, base: CheckpointRef) -> None:
    """Weights and configuration; the base by name, because a machine's path must not enter the folder's digest."""
    config = json.loads((weights / "adapter_config.json").read_text()) | {"base_model_name_or_path": base.name}
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set: another order in every process
    write_atomic(folder / "adapter_config.json", json.dumps(config, indent=1, sort_keys=True).encode())
    shutil.copyfile(weights / "adapter_model.safetensors", folder / "adapter_model.safetensors")


class _Progress(TrainerCallback):
    """One bar per stage, in samples: what the person waits for."""

    def __init__(self, stage: SftStage, samples: int) -> None:
        self.stage, self.samples = stage, samples

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        total, done = state.max_steps * self.samples, state.global_step * self.samples
        self.bar = tqdm(desc=f"finetune {self.stage.name}", unit="sample", total=total, initial=done)

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.bar.update(self.samples)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        shown = {name: f"{logs[name]:.3f}" for name in ("loss", "pair_accuracy") if logs and name in logs}
        self.bar.set_postfix(shown, refresh=False)

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.bar.close()
