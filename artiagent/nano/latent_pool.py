"""Scenes on the training device, encoded once; grows while a network already trains on what is there."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from artiagent.nano.anatomy import cast_of
from artiagent.nano.flux_transformer import LatentCache, pack
from artiagent.nano.flux_vae import encode_latents
from artiagent.nano.scene_stream import MOST_ENTITIES, MOST_PARTS, SceneChunk, SceneStream

AT_ONCE = 2  # chunks that one call takes over, so that a training step never waits long


class LatentPool:
    """Buffers for `capacity` scenes, of which the first `count` are filled, the first `held_out` never drawn.

    `images` uint8 [N, H, W, 3], `parts` [N, P, 4] and `entities` [N, E, 4] boxes, `cache` the packed latents and token
    ids. Raises ValueError where `held_out` leaves nothing to draw.
    """

    def __init__(
        self, stream: SceneStream, vae: AutoencoderKL, clip: Any, t5: Any, *, capacity: int, size: int, held_out: int
    ):
        if capacity <= held_out:
            raise ValueError(f"{capacity} scenes of which {held_out} are held out leave none to train on; render more")
        self.stream, self.vae, self.clip, self.t5, self.held_out = stream, vae, clip, t5, held_out
        self.captions: list[str] = []
        device, self.count = vae.device, 0
        side = size // 2 ** len(vae.config.block_out_channels)
        ids = torch.zeros(2, capacity, t5.model_max_length, dtype=torch.long, device=device)
        self.cache = LatentCache(
            torch.zeros(capacity, side * side, 4 * vae.config.latent_channels, dtype=torch.float16, device=device),
            *ids, self._ids(clip, [""]), self._ids(t5, [""]), side,
        )  # fmt: skip
        self.images = torch.zeros(capacity, size, size, 3, dtype=torch.uint8, device=device)
        self.parts = torch.zeros(capacity, MOST_PARTS, 4, dtype=torch.int16, device=device)
        self.entities = torch.zeros(capacity, MOST_ENTITIES, 4, dtype=torch.int16, device=device)

    def grow(self) -> None:
        """Take over what has been rendered meanwhile."""
        for chunk in islice(self.stream.ready(), AT_ONCE):
            self._add(chunk)

    def wait_for(self, count: int) -> None:
        """Grow to `count` scenes or to all there will be."""
        while self.count < count and not self.stream.exhausted:
            self.grow()

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Numbers [batch] of scenes that are not held out, on the generator's device."""
        return torch.randint(self.held_out, self.count, (batch,), generator=generator, device=generator.device)

    def single(self, count: int) -> list[int]:
        """Numbers of the last `count` scenes of one entity."""
        drawable = range(self.held_out, self.count)
        return [number for number in drawable if len(cast_of(self.captions[number])) == 1][-count:]

    def held(self) -> LatentCache:
        """The held-out scenes alone."""
        first = slice(0, self.held_out)
        return replace(
            self.cache,
            latents=self.cache.latents[first],
            clip_ids=self.cache.clip_ids[first],
            t5_ids=self.cache.t5_ids[first],
        )

    def _add(self, chunk: SceneChunk) -> None:
        images = torch.from_numpy(chunk.images).to(self.images.device)
        rows = slice(self.count, self.count + len(images))
        self.images[rows] = images
        self.parts[rows] = torch.from_numpy(chunk.parts).to(images.device)
        self.entities[rows] = torch.from_numpy(chunk.entities).to(images.device)
        self.cache.latents[rows] = pack(encode_latents(self.vae, images, batch=64)).half()
        self.cache.clip_ids[rows] = self._ids(self.clip, chunk.captions)
        self.cache.t5_ids[rows] = self._ids(self.t5, chunk.captions)
        self.captions += chunk.captions
        self.count += len(images)

    def _ids(self, tokenizer: Any, texts: list[str]) -> Tensor:
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        return ids.to(self.vae.device)
