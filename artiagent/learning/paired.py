"""Both sides of a pair in one batch, and a loss on the contrast between them.

Measured: a base that is blind to anatomy stays at chance with shuffled single images and a token loss, and learns with
paired batches and the contrast (the nano prototype); one that sees altered places does best with paired batches and the
token loss alone (docs/transfer.md). ``SFTTrainer`` with a sampler and one more term, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Sampler
from trl import SFTTrainer


class PairedSampler(Sampler[int]):
    """Row indices 2k, 2k + 1 in succession for pairs k in a seeded order that changes with the epoch.

    With an even batch size no pair is torn; ``set_epoch`` is called by accelerate, also when a run is resumed.
    """

    def __init__(self, pairs: int, seed: int) -> None:
        self.pairs, self.seed, self.epoch = pairs, seed, 0

    def __len__(self) -> int:
        return 2 * self.pairs

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        for pair in torch.randperm(self.pairs, generator=generator).tolist():
            yield from (2 * pair, 2 * pair + 1)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class PairedTrainer(SFTTrainer):
    """Adds ``margin_weight * softplus(m_clean - m_artifact)``, m = logit(Yes) - logit(No) at the binary question.

    Args:
        margin_weight: 0 leaves the token loss alone.
        answers: token ids of (Yes, No).
        paired: whether batches are drawn by ``PairedSampler``; the training set holds pairs as rows 2k, 2k + 1.
    """

    def __init__(
        self, *args: Any, margin_weight: float, answers: tuple[int, int], paired: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.margin_weight, self.answers, self.paired = margin_weight, answers, paired

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        if not self.paired:
            return super()._get_train_sampler(train_dataset)
        rows = train_dataset if train_dataset is not None else self.train_dataset
        return PairedSampler(len(rows) // 2, self.args.seed)

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
        twins = twins[(decision[twins] >= 0).all(dim=1)]
        if not len(twins):
            return result
        margins = answer_margins(captured[0], bare.get_output_embeddings().weight, decision, self.answers)
        contrast = margins[twins[:, 0]] - margins[twins[:, 1]]
        extra = torch.nn.functional.softplus(-contrast).mean()
        figures = self._metrics["train" if self.model.training else "eval"]
        figures["margin_loss"].append(extra.item())
        figures["pair_accuracy"].append((contrast > 0).float().mean().item())
        if not self.margin_weight:
            return result
        # with a token count given, the trainer leaves the division by accumulation steps to the loss
        steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
        extra = self.margin_weight * extra / steps
        return (result[0] + extra, result[1]) if return_outputs else result + extra


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
