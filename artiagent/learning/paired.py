"""Both sides of a pair in one batch, and a loss on the contrast between them.

Knows the order of rows, the sampler and the loss. Does not know tokens (`collate`) or stages.

Measured: a base that is blind to anatomy stays at chance with shuffled single images and a token loss, and learns with
paired batches and the contrast (the nano prototype); one that sees altered places does best with paired batches and the
token loss alone (docs/transfer.md). ``SFTTrainer`` with a sampler and one more term, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Sampler
from trl import SFTTrainer

from artiagent.config import SftSection
from artiagent.learning.family import FAMILIES
from artiagent.records import DatasetRef
from artiagent.store import open_dataset, read_json

LENGTH = "length"  # column: tokens of a row, about
CHARACTERS = 3.5  # of a token of these questions and answers, about
POOL = 32  # batches whose pairs are sorted by length together


def open_rows(section: SftSection, conversations: DatasetRef, cache: Path, processor: Any) -> dict[str, Dataset]:
    """Splits "train" and "val" as `paired_rows` gives them, lengths where batches are grouped by them."""
    counted = processor if section.group_by_length else None
    return {
        split: paired_rows(conversations, split, cache, mirror=section.mirror and split == "train", processor=counted)
        for split in ("train", "val")
    }


def paired_rows(conversations: DatasetRef, split: str, cache: Path, *, mirror: bool, processor: Any = None) -> Dataset:
    """Memory-mapped rows (record, image, mirrored) of a split, artifact side at 2k and its twin at 2k + 1, ordered by
    pair id; with ``mirror`` all of them once more, to be mirrored; with a ``processor`` also their ``length``.

    Raises ValueError naming the first pair that lacks a side.
    """
    open_dataset(Path(conversations.uri))
    sides: dict[str, list[int | None]] = {}  # indices of the artifact side and its twin
    lengths: list[int] = []
    for index, (_, text, _) in enumerate(read_json(conversations, ())):
        record = json.loads(text)
        if record["split"] == split:
            sides.setdefault(record["pair_id"], [None, None])[not record["faulty"]] = index
        lengths.append(_length(record, processor) if processor is not None else 0)
    if torn := sorted(pair for pair, both in sides.items() if None in both):
        raise ValueError(
            f"{conversations.uri}: {len(torn)} pairs lack a side (first: {torn[0]}); rebuild the conversations"
        )
    if not sides:
        return Dataset.from_list([])
    files = sorted(str(path) for path in Path(conversations.uri).glob("*-of-*.parquet"))
    dataset = Dataset.from_parquet(files, cache_dir=str(cache))
    if processor is not None:
        dataset = dataset.add_column(LENGTH, lengths)
    order = [index for pair in sorted(sides) for index in sides[pair]]
    versions = [
        dataset.add_column("mirrored", [flag] * len(dataset)) for flag in ((False, True) if mirror else (False,))
    ]
    starts = [index * len(dataset) for index in range(len(versions))]
    return concatenate_datasets(versions).select([start + row for start in starts for row in order])


def _length(record: dict[str, Any], processor: Any) -> int:
    """Image tokens as the processor counts them, text by its characters."""
    text = sum(len(turn["text"]) for turn in record["turns"])
    return _image_tokens(processor, record["width"], record["height"]) + round(text / CHARACTERS)


@lru_cache(maxsize=4096)
def _image_tokens(processor: Any, width: int, height: int) -> int:
    (family,) = (family for family in FAMILIES.values() if family.processor == type(processor).__name__)
    return family.tokens(processor, width, height)


class PairedSampler(Sampler[int]):
    """Row indices 2k, 2k + 1 in succession for pairs k in a seeded order that changes with the epoch.

    With an even batch size no pair is torn; ``set_epoch`` is called by accelerate, also when a run is resumed.

    Args:
        pairs: how many there are.
        seed: of the order.
        lengths: tokens of each pair; with them a step's pairs are of like length, and steps come in random order.
        batch: pairs of a step, over all processes; with ``lengths`` only.
    """

    def __init__(self, pairs: int, seed: int, lengths: Sequence[int] | None = None, batch: int = 1) -> None:
        self.pairs, self.seed, self.epoch = pairs, seed, 0
        self.lengths, self.batch = lengths, batch

    def __len__(self) -> int:
        return 2 * self.pairs

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.pairs, generator=generator).tolist()
        for pair in order if self.lengths is None else self._grouped(order, generator):
            yield from (2 * pair, 2 * pair + 1)

    def _grouped(self, order: list[int], generator: torch.Generator) -> Iterator[int]:
        """Pools of shuffled pairs, each sorted by length and cut into batches. A short last batch stays the last."""
        pool = POOL * self.batch
        ordered = [
            pair
            for start in range(0, self.pairs, pool)
            for pair in sorted(order[start : start + pool], key=self.lengths.__getitem__)
        ]
        batches = [ordered[start : start + self.batch] for start in range(0, self.pairs, self.batch)]
        whole = len(batches) - (len(batches[-1]) < self.batch)
        for index in (*torch.randperm(whole, generator=generator).tolist(), *range(whole, len(batches))):
            yield from batches[index]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class PairedTrainer(SFTTrainer):
    """Adds ``margin_weight * softplus(m_clean - m_artifact)``, m = logit(Yes) - logit(No) at the binary question.

    Args:
        margin_weight: 0 leaves the token loss alone.
        answers: token ids of (Yes, No).
        paired: whether batches are drawn by ``PairedSampler``; the training set holds pairs as rows 2k, 2k + 1.
        like_length: pairs of a step, which then are of like length; 0: in any order.
        measured: False where no process holds the whole output embedding; then there are no figures of the margin.
        sealed: called by the first process with the folder of a checkpoint that all have written.
    """

    def __init__(
        self,
        *args: Any,
        margin_weight: float,
        answers: tuple[int, int],
        paired: bool = True,
        like_length: int = 0,
        measured: bool = True,
        sealed: Callable[[Path], None] = lambda _: None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.margin_weight, self.answers, self.paired = margin_weight, answers, paired
        self.like_length, self.measured, self.sealed = like_length, measured, sealed

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if not self.paired:
            return super()._get_train_sampler(train_dataset)
        rows = train_dataset if train_dataset is not None else self.train_dataset
        pairs = len(rows) // 2
        if not self.like_length:
            return PairedSampler(pairs, self.args.seed)
        both = rows[LENGTH]
        lengths = [max(both[2 * k], both[2 * k + 1]) for k in range(pairs)]
        return PairedSampler(pairs, self.args.seed, lengths, self.like_length)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.sealed(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Adapters as usual. A whole model was already read by ``from_pretrained``: the trainer reads checkpoints of
        vision-language models without translating their key names, finds none and only warns.
        """
        if isinstance(self.model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Token loss of TRL, which never builds all logits, plus the margin from the hidden states at two positions a
        pair.
        """
        decision, twins = inputs.pop("decision"), inputs.pop("twins")
        bare = self.accelerator.unwrap_model(model)
        bare = bare.get_base_model() if isinstance(bare, PeftModel) else bare
        with _last_hidden_states(bare.base_model) as captured:
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self.measured:
            return result
        twins = twins[(decision[twins] >= 0).all(dim=1)]
        margins = answer_margins(captured[0], bare.get_output_embeddings().weight, decision, self.answers)
        contrast = margins[twins[:, 0]] - margins[twins[:, 1]]
        extra = torch.nn.functional.softplus(-contrast).sum() / max(1, len(twins))
        self._note(extra.item(), (contrast > 0).float().sum().item() / max(1, len(twins)), len(twins))
        if not self.margin_weight:
            return result
        # with a token count given, the trainer leaves the division by accumulation steps to the loss
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        extra = self.margin_weight * extra / steps
        return (result[0] + extra, result[1]) if return_outputs else result + extra

    def _note(self, loss: float, accuracy: float, pairs: int) -> None:
        """Figures of the pairs of all processes; every process calls it, also without a pair."""
        found = [[loss, accuracy, pairs]]
        if self.accelerator.num_processes > 1:
            found = self.accelerator.gather(torch.tensor(found, device=self.accelerator.device)).tolist()
        if total := sum(count for *_, count in found):
            figures = self._metrics["train" if self.model.training else "eval"]
            figures["margin_loss"].append(sum(value * count for value, _, count in found) / total)
            figures["pair_accuracy"].append(sum(value * count for _, value, count in found) / total)


def answer_margins(hidden: Tensor, head: Tensor, decision: Tensor, answers: Sequence[int]) -> Tensor:
    """logit(Yes) - logit(No) per row, float32 [B].

    Args:
        hidden: last hidden states [B, L, D].
        head: output embedding [V, D].
        decision: position that predicts the answer [B]; rows with -1 give a value without meaning.
        answers: token ids of (Yes, No).
    """
    rows = torch.arange(len(decision), device=hidden.device)
    states = hidden[rows, decision.clamp(min=0)].float()
    return states @ (head[answers[0]] - head[answers[1]]).float()


@contextmanager
def _last_hidden_states(backbone: torch.nn.Module) -> Iterator[list[Tensor]]:
    """Collects what the backbone hands to the output embedding."""
    captured: list[Tensor] = []
    handle = backbone.register_forward_hook(lambda _module, _inputs, output: captured.append(output.last_hidden_state))
    try:
        yield captured
    finally:
        handle.remove()
