"""Batches for nano-VL's pre-training: augmented views, questions, and several conversations packed behind one image.

The vision tokens are the expensive part, so about ten questions share them. A question must not read the answer of
another, as it will be asked alone later: every conversation (one to three turns) attends to the image and to itself
only, and its positions start right after the image. A packed row is therefore exactly a set of ordinary conversations.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLProcessor

from artiagent.instruction import prompts
from artiagent.nano.patch_heads import PatchTargets, patch_targets
from artiagent.nano.views import View
from artiagent.nano.vl_tasks import ASK, Exchange

ROW = 344  # tokens of a packed row, image included
IGNORE = -100
# How often a task is drawn, and the weight of each answer token: a verdict of one token must not drown in captions.
Mixture = dict[str, tuple[float, float]]
MIXTURE: Mixture = {
    prompts.PART_IN_BOX: (0.46, 3.0), prompts.LOCATE_PART: (0.18, 1.0), prompts.LOCATE_MISMATCH: (0.12, 1.0),
    prompts.COUNT: (0.07, 2.0), prompts.PRESENCE: (0.07, 2.0), prompts.DESCRIBE_IMAGE: (0.1, 1.0),
}  # fmt: skip


@dataclass
class Batch:
    """B packed rows of L tokens. `labels` [B, L] are next tokens or -100, `weights` [B, L] go with them."""

    input_ids: Tensor
    position_ids: Tensor  # [3, B, L]
    attention_mask: Tensor  # bool [B, 1, L, L], true where a token (row) may attend
    labels: Tensor
    weights: Tensor
    pixel_values: Tensor  # [B * patches, channels * temporal * patch * patch]
    image_grid_thw: Tensor  # [B, 3]
    targets: PatchTargets

    def to(self, device: str) -> Batch:
        return Batch(*(getattr(self, item.name).to(device) for item in fields(self)))


def ask_many(view: View, rng: random.Random, most: int, mixture: Mixture = MIXTURE) -> list[Exchange]:
    """Up to `most` different questions of the mixture."""
    tasks, shares = zip(*((task, share) for task, (share, _) in mixture.items()), strict=True)
    asked: dict[str, Exchange] = {}
    for task in rng.choices(tasks, shares, k=most):
        if (exchange := ASK[task](view, rng)) is not None:
            asked.setdefault(exchange.question(), exchange)
    return list(asked.values())


class Packer:
    """Turns views and questions into batches for one processor."""

    def __init__(self, processor: Qwen2_5_VLProcessor, size: int, row: int = ROW, mixture: Mixture = MIXTURE):
        self.processor, self.tokenizer, self.row, self.mixture = processor, processor.tokenizer, row, mixture
        settings = processor.image_processor
        self.patch, self.merge, self.temporal = settings.patch_size, settings.merge_size, settings.temporal_patch_size
        self.grid, self.side = size // self.patch, size // self.patch // self.merge
        self.mean, self.std = (
            torch.tensor(values)[:, None, None] for values in (settings.image_mean, settings.image_std)
        )
        self._tokens: dict[str, list[int]] = {}
        image = "<|image_pad|>" * self.side**2
        self.prefix = self._encode(f"<|im_start|>user\n<|vision_start|>{image}<|vision_end|>")
        self.prefix_positions = self._positions_of_prefix()

    def batch(
        self,
        views: list[View],
        exchanges: list[list[Exchange]],
        rng: random.Random,
        originals: list[View] | None = None,
    ) -> Batch:
        """`originals` are the scenes before their augmentation; without them the views themselves."""
        rows = [self._row(questions, rng) for questions in exchanges]
        ids, labels = (torch.tensor([row[i] for row in rows]) for i in (0, 1))
        weights, groups = torch.tensor([row[2] for row in rows]), torch.tensor([row[3] for row in rows])
        positions = torch.stack([row[4] for row in rows], 1)
        causal = torch.ones(self.row, self.row, dtype=torch.bool).tril()
        allowed = causal & ((groups[:, None, :] == 0) | (groups[:, None, :] == groups[:, :, None]))
        grid = torch.tensor([[1, self.grid, self.grid]]).expand(len(views), 3)
        pixels = self.pixels(np.stack([view.image for view in views]))
        targets = patch_targets(views, originals or views, self.patch, self.merge)
        return Batch(ids, positions, allowed[:, None], labels, weights, pixels, grid, targets)

    def pixels(self, images: np.ndarray) -> Tensor:
        """uint8 [B, H, W, 3] -> what the processor makes of images that need no resizing."""
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        x = x.reshape(len(images), 3, self.side, self.merge, self.patch, self.side, self.merge, self.patch)
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
        x = x.expand(-1, -1, -1, -1, -1, -1, self.temporal, -1, -1)
        return x.reshape(len(images) * self.grid**2, -1)

    def _row(self, exchanges: list[Exchange], rng: random.Random) -> tuple[list, list, list, list, Tensor]:
        """Tokens, labels, weights, conversation numbers (0 the image, -1 padding), positions [3, L]."""
        ids, labels = list(self.prefix), [IGNORE] * len(self.prefix)
        weights, groups = [0.0] * len(ids), [0] * len(ids)
        start = int(self.prefix_positions.max()) + 1
        positions, group, turns_left, following = [], 0, 0, start
        for exchange in exchanges:
            fresh = turns_left == 0
            opening = "" if fresh else "\n<|im_start|>user\n"
            question = self._encode(f"{opening}{exchange.question(rng)}<|im_end|>\n<|im_start|>assistant\n")
            answer = self._encode(f"{exchange.answer}<|im_end|>")
            if len(ids) + len(question) + len(answer) > self.row:
                break
            if fresh:
                group, following, turns_left = group + 1, start, rng.choice((1, 1, 1, 2, 3))
            turns_left -= 1
            count = len(question) + len(answer)
            ids += question + answer
            labels += [IGNORE] * (len(question) - 1) + answer + [IGNORE]
            weights += [self.mixture[exchange.task][1]] * count
            groups += [group] * count
            positions += range(following, following + count)
            following += count
        rest = self.row - len(ids)
        text = torch.tensor([*positions, *[0] * rest], dtype=torch.long).expand(3, -1)
        filled = ids + [self.tokenizer.pad_token_id] * rest, labels + [IGNORE] * rest, weights + [0.0] * rest
        return *filled, groups + [-1] * rest, torch.cat([self.prefix_positions, text], 1)

    def _positions_of_prefix(self) -> Tensor:
        """[3, prefix]: text counts on, image tokens carry row and column (Qwen2-VL's multimodal rotary positions)."""
        before = self.prefix.index(self.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        text = torch.arange(before).expand(3, -1)
        row, column = (
            axis.flatten() + before for axis in torch.meshgrid(*[torch.arange(self.side)] * 2, indexing="ij")
        )
        image = torch.stack([torch.full_like(row, before), row, column])
        end = torch.full((3, 1), before + self.side)
        return torch.cat([text, image, end], 1)

    def _encode(self, text: str) -> list[int]:
        if text not in self._tokens:
            if len(self._tokens) > 50_000:
                self._tokens.clear()
            self._tokens[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return self._tokens[text]
