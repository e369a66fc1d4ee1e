"""A transformers vision-language model folder, in process and batched.

Knows how to batch, pad and decode. Does not know any question: prompts arrive as text, boxes already in the model's
units (`space`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature

from artiagent.devices import torch_device, torch_dtype, use_threads
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import NO, YES
from artiagent.vlm.protocol import Prompt


class LocalVlm:
    """Qwen2.5-VL or a relative (image-text-to-text), greedy.

    Args:
        folder: transformers model folder with its processor and chat template, safetensors weights.
        device: "auto", "cpu", "cuda", "cuda:1"...
        dtype: "float32", "bfloat16" or "float16".
        threads: CPU threads of the process.
        batch_size: rows per forward pass.
    """

    def __init__(
        self,
        folder: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        threads: int = 2,
        batch_size: int = 32,
    ) -> None:
        if not Path(folder).is_dir():
            raise ValueError(f"{folder}: expected a transformers model folder (config.json, safetensors, processor)")
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}: expected at least 1")
        use_threads(threads)
        self.name = Path(folder).name
        self.batch_size = batch_size
        self.device = torch_device(device)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.processor.tokenizer.padding_side = "left"  # so that the last position of every row is the answer's first
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch_dtype(dtype), use_safetensors=True)
        self.model = model.to(self.device).eval()
        self._yes, self._no = self._answer_token(YES), self._answer_token(NO)

    def space(self, width: int, height: int) -> CoordinateSpace:
        return CoordinateSpace.from_processor(self.processor, width, height)

    def generate(self, images: Sequence[np.ndarray], prompts: Sequence[str | Prompt], max_new_tokens: int) -> list[str]:
        """Greedy answers, stripped, special tokens removed."""
        answers: list[str] = []
        for batch in self._batches(images, prompts):
            with torch.inference_mode():
                tokens = self.model.generate(
                    **batch, max_new_tokens=max_new_tokens, do_sample=False, temperature=None, top_p=None, top_k=None
                )
            fresh = tokens[:, batch["input_ids"].shape[1] :]
            answers += [text.strip() for text in self.processor.batch_decode(fresh, skip_special_tokens=True)]
        return answers

    def yes_no(self, images: Sequence[np.ndarray], prompts: Sequence[str | Prompt]) -> np.ndarray:
        """P(Yes) / (P(Yes) + P(No)), float64 [n], from one forward pass per batch."""
        margins: list[torch.Tensor] = []
        for batch in self._batches(images, prompts):
            with torch.inference_mode():
                logits = self.model(**batch, use_cache=False, logits_to_keep=1).logits[:, -1].double()
            margins.append((logits[:, self._yes] - logits[:, self._no]).cpu())
        return torch.sigmoid(torch.cat(margins)).numpy() if margins else np.zeros(0)

    def _answer_token(self, word: str) -> int:
        ids = self.processor.tokenizer(word, add_special_tokens=False).input_ids
        if len(ids) != 1:
            raise ValueError(f"{self.name}: {word!r} is {len(ids)} tokens; yes/no questions need it to be one")
        return ids[0]

    def _batches(self, images: Sequence[np.ndarray], prompts: Sequence[str | Prompt]) -> Iterator[BatchFeature]:
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images for {len(prompts)} prompts; expected one image per prompt")
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            texts = [self._chat(prompt) for prompt in prompts[rows]]
            pictures = [[Image.fromarray(image)] for image in images[rows]]
            batch = self.processor(text=texts, images=pictures, padding=True, return_tensors="pt")
            yield batch.to(self.device, dtype=self.model.dtype)

    def _chat(self, prompt: str | Prompt) -> str:
        text = prompt.text if isinstance(prompt, Prompt) else prompt
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
        return self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
