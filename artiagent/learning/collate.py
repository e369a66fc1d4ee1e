"""Conversations -> padded batches whose labels cover the assistant's answers exactly.

Knows chat templates, image tokens and attention. Does not know models' weights or losses. Works with any processor
whose template renders a prefix of a conversation as a prefix of its text.

``dialogue`` is the ordinary multi-turn sequence. ``alone`` packs the turns behind one image so that each attends to the
image and to itself only, at the positions it would have as the only question: what is learnt is what will be asked, and
the image is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor

from artiagent.images import decode
from artiagent.instruction.conversations import fill_boxes, mirrored
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import NO, WORDINGS, YES
from artiagent.records import Conversation

IGNORE = -100
Context = Literal["dialogue", "alone"]


@dataclass
class Body:
    """Tokens after the image. ``groups`` numbers the turns that may see each other, from 1; ``decision`` is the
    position that predicts the binary answer, -1 without one.
    """

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    decision: int = -1


class ConversationCollator:
    """Callable for a data loader.

    Args:
        processor: transformers processor with a chat template.
        max_length: tokens of a row; turns that do not fit are left out from the end.
        context: see the module.
        positions: for ``alone``: the model's ``get_rope_index`` where it has multimodal positions, else None.
    """

    def __init__(
        self,
        processor: Any,
        max_length: int,
        context: Context = "dialogue",
        positions: Callable[..., Any] | None = None,
    ) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.max_length, self.context, self.positions = max_length, context, positions
        self.pad = (
            self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        )

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Rows with ``record`` (Conversation as JSON), ``image`` (encoded bytes) and ``mirrored`` (show them left to
        right) -> model inputs, ``labels`` [B, L], ``decision`` [B] and ``twins`` [P, 2]: the (artifact, clean) rows of
        each pair that has both sides here."""
        conversations = [Conversation.model_validate_json(row["record"]) for row in rows]
        conversations = [mirrored(c) if row["mirrored"] else c for c, row in zip(conversations, rows, strict=True)]
        turns = [self._rendered(conversation) for conversation in conversations]
        images = [[_picture(row)] for row in rows]
        vision = self.processor(text=[first[0][0] for first in turns], images=images)
        prefixes = [self._prefix(ids, pairs[0][0]) for ids, pairs in zip(vision.pop("input_ids"), turns, strict=True)]
        bodies = [self._body(pairs, len(prefix)) for pairs, prefix in zip(turns, prefixes, strict=True)]
        types = vision.pop("mm_token_type_ids", None)
        del vision["attention_mask"]
        tensors = {name: _tensor(value) for name, value in vision.items()}
        batch = self._padded(prefixes, bodies, types) | tensors
        if self.context == "alone":
            self._separate(batch, prefixes, bodies, tensors)
        decisions = [b.decision + len(p) if b.decision >= 0 else -1 for p, b in zip(prefixes, bodies, strict=True)]
        return batch | {"decision": torch.tensor(decisions), "twins": _twins(conversations)}

    def _rendered(self, conversation: Conversation) -> list[tuple[str, str]]:
        """(prompt, answer) texts; boxes in the model's coordinates. Prompts continue the text, or start anew for
        ``alone``.
        """
        space = CoordinateSpace.from_processor(self.processor, conversation.width, conversation.height)
        texts = [fill_boxes(turn.text, conversation.boxes, space) for turn in conversation.turns]
        pairs, messages, done = [], [], ""
        for question, answer in zip(texts[::2], texts[1::2], strict=True):
            if self.context == "alone":
                messages, done = [], ""
            image = [] if messages else [{"type": "image"}]
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
            asked = self._render(messages, prompt=True)
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            answered = self._render(messages)
            if not (asked.startswith(done) and answered.startswith(asked)):
                raise ValueError("the chat template rewrites earlier turns; fine-tuning needs one that only appends")
            end = answered.rfind(self.tokenizer.eos_token) + len(self.tokenizer.eos_token)
            stop = end if end > len(asked) else len(answered)
            pairs.append((asked[len(done) :], answered[len(asked) : stop]))
            done = answered[:stop]
        return pairs

    def _render(self, messages: list[dict[str, Any]], prompt: bool = False) -> str:
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    def _prefix(self, ids: list[int], prompt: str) -> list[int]:
        """What precedes the first question's own text: everything up to the end of the image."""
        tail = self._tokens(self._after_image(prompt))
        if list(ids[len(ids) - len(tail) :]) != tail:
            raise ValueError("the processor changes the text after the image; expected it to expand the image only")
        return list(ids[: len(ids) - len(tail)])

    def _after_image(self, prompt: str) -> str:
        return prompt.rpartition(self.processor.image_token)[2]

    def _body(self, pairs: list[tuple[str, str]], taken: int) -> Body:
        body = Body()
        for index, (prompt, answer) in enumerate(pairs):
            alone = self.context == "alone"
            asked = self._tokens(self._after_image(prompt) if alone or index == 0 else prompt)
            answered = self._tokens(answer)
            if taken + len(body.ids) + len(asked) + len(answered) > self.max_length:
                if not body.ids:
                    raise ValueError(f"a first turn needs more than max_length={self.max_length} tokens; raise it")
                break
            if index == 0 and answered[0] in (self._tokens(YES)[0], self._tokens(NO)[0]) and _is_binary(prompt):
                body.decision = len(asked) - 1
            body.ids += asked + answered
            body.labels += [IGNORE] * len(asked) + answered
            body.groups += [index + 1 if alone else 1] * (len(asked) + len(answered))
        return body

    def _tokens(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _padded(self, prefixes: list[list[int]], bodies: list[Body], types: Any) -> dict[str, Tensor]:
        width = max(len(p) + len(b.ids) for p, b in zip(prefixes, bodies, strict=True))
        shape = (len(prefixes), width)
        ids, labels = torch.full(shape, self.pad), torch.full(shape, IGNORE)
        mask, kinds = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        for row, (prefix, body) in enumerate(zip(prefixes, bodies, strict=True)):
            length = len(prefix) + len(body.ids)
            ids[row, :length] = torch.tensor(prefix + body.ids)
            labels[row, len(prefix) : length] = torch.tensor(body.labels)
            mask[row, :length] = 1
            if types is not None:
                kinds[row, : len(prefix)] = torch.as_tensor(types[row])[: len(prefix)]
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        return batch if types is None else batch | {"mm_token_type_ids": kinds}

    def _separate(
        self, batch: dict[str, Tensor], prefixes: list[list[int]], bodies: list[Body], vision: dict[str, Tensor]
    ) -> None:
        """Replace the mask by bool [B, 1, L, L] and add position ids, so that turns do not see each other."""
        rows, width = batch["input_ids"].shape
        groups = torch.full((rows, width), -1)
        filled = batch["attention_mask"]
        if self.positions is not None:
            grids = {name: value for name, value in vision.items() if name.endswith("_grid_thw")}
            places, _ = self.positions(
                batch["input_ids"], batch.get("mm_token_type_ids"), attention_mask=filled, **grids
            )
        else:
            places = (filled.cumsum(-1) - 1).clamp(min=0)[None]
        for row, (prefix, body) in enumerate(zip(prefixes, bodies, strict=True)):
            numbers = torch.tensor(body.groups)
            end = len(prefix) + len(numbers)
            groups[row, : len(prefix)], groups[row, len(prefix) : end] = 0, numbers
            starts = torch.searchsorted(numbers, numbers)
            places[:, row, len(prefix) : end] = (
                places[:, row, : len(prefix)].max() + 1 + torch.arange(len(numbers)) - starts
            )
        causal = torch.ones(width, width, dtype=torch.bool).tril()
        seen = (groups[:, None, :] == 0) | (groups[:, None, :] == groups[:, :, None])
        batch["attention_mask"] = (causal & seen)[:, None]
        batch["position_ids"] = places if self.positions is not None else places[0]


def _tensor(value: Any) -> Tensor:
    """Of arrays, or of a list of equal tiles."""
    tiles = isinstance(value, list) and isinstance(value[0], Tensor)
    return torch.stack(value) if tiles else torch.as_tensor(value)


def _picture(row: dict[str, Any]) -> Image.Image:
    picture = Image.fromarray(decode(row["image"]))
    return ImageOps.mirror(picture) if row["mirrored"] else picture


def _is_binary(prompt: str) -> bool:
    return any(wording in prompt for wording in WORDINGS["binary"])


def _twins(conversations: list[Conversation]) -> Tensor:
    clean = {c.pair_id: row for row, c in enumerate(conversations) if not c.faulty}
    found = [(row, clean[c.pair_id]) for row, c in enumerate(conversations) if c.faulty and c.pair_id in clean]
    return torch.tensor(found, dtype=torch.long).reshape(-1, 2)
