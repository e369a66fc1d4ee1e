"""A transformers vision-language model folder, in process and batched.

Knows how to batch, pad and decode. Does not know any question: prompts arrive as text, boxes already in the model's
units (`space`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from artiagent.checkpoints import model_name
from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.images import scaled, scaled_size
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import NO, YES
from artiagent.vlm.looks import Look, looks_at, shown_again
from artiagent.vlm.protocol import Answer, Request

_AHEAD = 4  # batches of an agent's requests that are looked at together, so that each kind fills its batches


class LocalVlm:
    """Qwen2.5-VL or a relative (image-text-to-text), greedy.

    Args:
        folder: transformers model folder with its processor and chat template, safetensors weights.
        device: "auto", "cpu", "cuda", "cuda:1"...
        dtype: "float32", "bfloat16" or "float16".
        threads: CPU threads of the process.
        batch_size: rows per forward pass.
        max_tokens: longest answer to an agent.
        coordinates: "auto" takes the processor's convention, "pixels" those of the image, "per_mille" 0 to 1000.
        image_side: longest side of an agent's image that the model is shown.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        threads: int = 2,
        batch_size: int = 32,
        max_tokens: int = 512,
        coordinates: str = "auto",
        image_side: int | None = None,
    ) -> None:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: expected a transformers model folder (config.json, safetensors, processor)")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: expected at least 1")
        use_threads(threads)
        self.name = model_name(str(folder))
        self.batch_size = batch_size
        self.max_tokens, self.coordinates, self.image_side = max_tokens, coordinates, image_side
        self.device = torch_device(device)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"  # so that the last position of every row is the answer's first
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch_dtype(dtype), use_safetensors=True)
        self.model = model.to(self.device).eval()
        self._fork((YES, NO))
        self._spent = dict.fromkeys(("calls", "tokens_in", "tokens_out"), 0)

    def space(self, width: int, height: int) -> CoordinateSpace:
        seen = scaled_size(width, height, self.image_side)
        if self.coordinates == "auto":
            units = CoordinateSpace.from_processor(self.processor, *seen)
        else:
            units = CoordinateSpace.named(self.coordinates, *seen)
        return CoordinateSpace(width, height, units.model_width, units.model_height)

    def spent(self) -> dict[str, float | int]:
        """Calls and tokens of `ask` so far."""
        return dict(self._spent)

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer]:
        """Agents' calls, batched by kind; several images per call where the model takes them."""
        stream = iter(requests)
        while window := list(islice(stream, _AHEAD * self.batch_size)):
            answers: dict[int, Answer] = {}
            for kind in (True, False):
                chosen = [i for i, request in enumerate(window) if request.yes_no is kind]
                for start in range(0, len(chosen), self.batch_size):
                    rows = chosen[start : start + self.batch_size]
                    answers |= dict(zip(rows, self._answer([window[i] for i in rows], yes_no=kind), strict=True))
            yield from (answers[i] for i in range(len(window)))

    def look(self, images: Sequence[np.ndarray]) -> list[Look]:
        """Encode images, uint8 [H, W, 3], once; `generate` and `yes_no` take the looks in their place."""
        parts = (images[start : start + self.batch_size] for start in range(0, len(images), self.batch_size))
        return [look for part in parts for look in looks_at(self.model, part, self._shown(part, [""] * len(part)))]

    def generate(
        self, images: Sequence[np.ndarray] | Sequence[Look], prompts: Sequence[str], max_new_tokens: int
    ) -> list[str]:
        """Greedy answers, stripped, special tokens removed."""
        answers: list[str] = []
        for batch in self._batches(images, prompts):
            fresh = self._generated(batch, max_new_tokens)
            answers += [text.strip() for text in self.processor.batch_decode(fresh, skip_special_tokens=True)]
        return answers

    def yes_no(
        self,
        images: Sequence[np.ndarray] | Sequence[Look],
        prompts: Sequence[str],
        answers: tuple[str, str] = (YES, NO),
    ) -> np.ndarray:
        """P(Yes) / (P(Yes) + P(No)), float64 [n], from one forward pass per batch.

        ``answers`` are the two whole answers in other words, e.g. in JSON: compared is the token where they part, after
        what they have in common.
        """
        found = [self._probabilities(batch, answers) for batch in self._batches(images, prompts)]
        return torch.cat(found).numpy() if found else np.zeros(0)

    def _answer(self, requests: list[Request], *, yes_no: bool) -> list[Answer]:
        """One batch of one kind."""
        began = time.perf_counter()
        images = [[scaled(image, self.image_side) for image in request.images] for request in requests]
        batch = self._batch([request.prompt.text for request in requests], images)
        read = batch["attention_mask"].sum(dim=1).tolist()
        if yes_no:
            chances = self._probabilities(batch, (YES, NO)).tolist()
            said, written = [YES if p >= 0.5 else NO for p in chances], [1] * len(requests)
        else:
            chances = [None] * len(requests)
            fresh = self._generated(batch, self.max_tokens)
            said = [text.strip() for text in self.processor.batch_decode(fresh, skip_special_tokens=True)]
            padding = self.processor.tokenizer.pad_token_id
            written = (fresh != padding).sum(dim=1).tolist()
        share = (time.perf_counter() - began) / len(requests)
        for key, count in zip(self._spent, (len(requests), sum(read), sum(written)), strict=True):
            self._spent[key] += count
        return [
            Answer(text, probability=p, tokens_in=a, tokens_out=b, seconds=share)
            for text, p, a, b in zip(said, chances, read, written, strict=True)
        ]

    def _generated(self, batch: BatchFeature, most: int) -> torch.Tensor:
        """Tokens after the prompt, [n, at most ``most``]."""
        with torch.inference_mode():
            tokens = self.model.generate(
                **batch, max_new_tokens=most, do_sample=False, temperature=None, top_p=None, top_k=None
            )
        return tokens[:, batch["input_ids"].shape[1] :]

    def _probabilities(self, batch: BatchFeature, answers: tuple[str, str]) -> torch.Tensor:
        """P(first) / (P(first) + P(second)) where the two answers part, float64 [n]."""
        common, yes, no = self._fork(answers)
        with torch.inference_mode():
            logits = self.model(**_begun(batch, common), use_cache=False, logits_to_keep=1).logits[:, -1].double()
        return torch.sigmoid(logits[:, yes] - logits[:, no]).cpu()

    def _fork(self, answers: tuple[str, str]) -> tuple[list[int], int, int]:
        """Tokens that both answers begin with, and those with which they part. Raises ValueError for a single word of
        several tokens: its first one alone says nothing."""
        first, second = (self.processor.tokenizer(text, add_special_tokens=False).input_ids for text in answers)
        for text, ids in zip(answers, (first, second), strict=True):
            if text.isalpha() and len(ids) != 1:
                raise ValueError(f"{self.name}: {text!r} is {len(ids)} tokens; yes/no questions need it to be one")
        at = next(i for i, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
        return first[:at], first[at], second[at]

    def _batches(self, images: Sequence[np.ndarray] | Sequence[Look], prompts: Sequence[str]) -> Iterator[BatchFeature]:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images for {len(prompts)} prompts; expected one image per prompt")
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self._shown(images[rows], prompts[rows])

    def _shown(self, images: Sequence[np.ndarray] | Sequence[Look], prompts: Sequence[str]) -> BatchFeature:
        """A batch of one image per row; what was looked at before is not encoded again."""
        looks = [image if isinstance(image, Look) else Look(image) for image in images]
        return shown_again(self._batch(prompts, [[look.image] for look in looks]), looks)

    def _batch(self, texts: Sequence[str], images: Sequence[Sequence[np.ndarray]]) -> BatchFeature:
        """One user turn per row: its images, then its text."""
        chats = [self._chat(text, len(shown)) for text, shown in zip(texts, images, strict=True)]
        pictures = [[Image.fromarray(image) for image in shown] for shown in images]
        batch = self.processor(text=chats, images=pictures, padding=True, return_tensors="pt")
        return batch.to(self.device, dtype=self.model.dtype)

    def _chat(self, text: str, images: int) -> str:
        content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
        message = {"role": "user", "content": content}
        return self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def _begun(batch: BatchFeature, tokens: Sequence[int]) -> BatchFeature:
    """The batch, every row of which continues with the same tokens of text."""
    filled = {"attention_mask": 1, "mm_token_type_ids": 0}
    longer = {}
    for name in ("input_ids", *filled):
        if tokens and name in batch:
            more = [filled.get(name, token) for token in tokens]
            rows = batch[name].new_tensor(more).expand(len(batch[name]), -1)
            longer[name] = torch.cat([batch[name], rows], dim=1)
    return BatchFeature({**batch, **longer})
