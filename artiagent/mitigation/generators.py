"""Draws pictures with a FluxPipeline, step by step: nano-schnell, nano-flux, FLUX.1-schnell, FLUX.1-dev.

Knows the sampling loop of rectified flow (``x_t = (1 - t) x0 + t noise``, velocity = noise - x0, Euler steps along the
scheduler's own times), counts transformer calls, and can be stopped after any step. Does not know rewards or search.

Latents are packed tokens, float32 [n, L, C] on the CPU, whatever type and device the weights have. The noise of a
picture comes from a generator of its own, so that a seed gives one picture whatever the batch (to rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from artiagent.devices import has_native_bfloat16, quiet_loading, torch_device, torch_dtype, use_threads
from artiagent.records import CheckpointRef
from artiagent.synthesis.memory import decodes_together

FEW, MANY = 4, 28  # steps of a model that was distilled to few, and of another
GUIDANCE = 3.5  # of a model that needs it
TEXT_TOKENS = {True: 512, False: 256}  # that T5 reads at most: with embedded guidance (dev), without (schnell)


@dataclass(frozen=True)
class Text:
    """A prompt, embedded once: T5 states [T, D] and CLIP's pooled output [P], on the CPU."""

    states: torch.Tensor
    pooled: torch.Tensor


class Generator:
    """A FluxPipeline, ready to draw.

    Args:
        pipe: with its text encoders.
        name: what reports call it.
        size: height and width of the pictures in px.
        steps: None: 4 of a few-step model, else 28. A model counts as few-step when its scheduler does not shift its
            times and it has no embedded guidance, as FLUX.1-schnell.
        guidance: None: none for a few-step model, else 3.5. Above 1 without embedded guidance it is classifier-free
            against the empty prompt, and a step costs two transformer calls.
        device: of the transformer and the decoder; text encoders are there only while they embed.
        dtype: what the pipeline's weights have.
        threads: of the CPU.
        batch: pictures per transformer call.

    ``calls`` counts transformer calls per picture since the beginning (a batch of 16 is 16 calls), ``decoded`` pictures
    that went through the decoder. Raises ValueError for a size that the latents cannot have.
    """

    def __init__(
        self, pipe: FluxPipeline, *, name: str, size: int, steps: int | None = None, guidance: float | None = None,
        device: str = "auto", threads: int = 2, batch: int = 16,
    ) -> None:  # fmt: skip
        use_threads(threads)
        self.pipe, self.name, self.size, self.batch = pipe, name, size, batch
        self.device = torch_device(device)
        patch = 2 * pipe.vae_scale_factor
        if size % patch:
            raise ValueError(f"size {size}: pictures of this generator have sides that are multiples of {patch} px")
        self.grid = size // patch
        self._embeds_guidance = bool(pipe.transformer.config.guidance_embeds)
        config = pipe.scheduler.config
        self.few_step = not (self._embeds_guidance or config.use_dynamic_shifting or config.shift != 1)
        self.steps = steps or (FEW if self.few_step else MANY)
        self.guidance = guidance if guidance is not None else 0.0 if self.few_step else GUIDANCE
        self.free_guidance = self.guidance > 1 and not self._embeds_guidance
        self.calls_per_step = 2 if self.free_guidance else 1
        self.calls = self.decoded = 0
        self.times = self._times()
        self._texts: dict[str, Text] = {}
        for part in (pipe.transformer, pipe.vae):
            part.eval()
        pipe.vae.to(self.device, memory_format=torch.channels_last)  # convolutions on the CPU are twice as fast

    @property
    def calls_per_image(self) -> int:
        """Transformer calls of a picture from noise to the end."""
        return self.steps * self.calls_per_step

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Standard normal latents [n, L, C], each from its own generator on the CPU. Those of FluxPipeline with
        ``torch.Generator().manual_seed(seed)`` in float32."""
        channels, side = self.pipe.transformer.config.in_channels // 4, 2 * self.grid
        drawn = [torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return self.pipe._pack_latents(torch.cat(drawn), len(drawn), channels, side, side)

    def generate(self, prompts: Sequence[str], noise: torch.Tensor) -> np.ndarray:
        """Pictures, uint8 [n, size, size, 3], of one prompt for each noise [n, L, C]."""
        latents = noise
        for step in range(self.steps):
            latents, _ = self.step(prompts, latents, step)
        return self.decode(latents)

    @torch.inference_mode()
    def step(self, prompts: Sequence[str], latents: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One Euler step from ``times[step]`` to ``times[step + 1]``.

        Args:
            prompts: n, one for each of the latents [n, L, C].
            latents: at ``times[step]``.
            step: 0 to ``steps - 1``.

        Returns the latents at ``times[step + 1]`` and the estimate of x0 that the same velocity gives.
        """
        if len(prompts) != len(latents):
            raise ValueError(f"{len(prompts)} prompts for {len(latents)} latents: expected one for each")
        now, then = self.times[step], self.times[step + 1]
        self.embed(prompts)
        self._have("transformer")
        parts = [
            self._velocity(prompts[start : start + self.batch], latents[start : start + self.batch], now)
            for start in range(0, len(latents), self.batch)
        ]
        velocity = torch.cat(parts)
        self.calls += self.calls_per_step * len(latents)
        return latents + (then - now) * velocity, latents - now * velocity

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Latents [n, L, C] at time 0 -> uint8 [n, size, size, 3]; large pictures one by one."""
        vae = self.pipe.vae
        rows = min(self.batch, 8) if decodes_together((self.grid, self.grid), self.size // self.grid) else 1
        pictures = []
        for part in latents.split(rows):
            unpacked = self.pipe._unpack_latents(part, self.size, self.size, self.pipe.vae_scale_factor)
            scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
            scaled = scaled.to(self.device, vae.dtype).contiguous(memory_format=torch.channels_last)
            pixels = vae.decode(scaled, return_dict=False)[0].float()
            pictures.append(((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        self.decoded += len(latents)
        return torch.cat(pictures).permute(0, 2, 3, 1).contiguous().numpy()

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> None:
        """Embed those prompts that are new. Do it ahead for all of them: text encoders and transformer lie on an
        accelerator in turns. Raises ValueError for one that the model cannot read to its end."""
        wanted = [p for p in dict.fromkeys([*prompts, *([""] if self.free_guidance else [])]) if p not in self._texts]
        if not wanted:
            return
        limit = min(int(self.pipe.tokenizer_2.model_max_length), TEXT_TOKENS[self._embeds_guidance])
        for prompt in wanted:
            if (length := len(self.pipe.tokenizer_2(prompt).input_ids)) > limit:
                raise ValueError(f"prompt of {length} tokens, this generator reads {limit}: {prompt!r}; shorten it")
        self._have("text_encoder", "text_encoder_2")
        for prompt in wanted:
            states, pooled, _ = self.pipe.encode_prompt(prompt, prompt, self.device, max_sequence_length=limit)
            self._texts[prompt] = Text(states[0].cpu(), pooled[0].cpu())

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """Words of a prompt that the generator's vocabulary spells in single letters or does not have: it was hardly
        trained on them."""
        tokenizer = self.pipe.tokenizer_2
        found = []
        for word in prompt.split():
            ids = tokenizer(word.strip(".,;:!?"), add_special_tokens=False).input_ids
            letters = [tokenizer.convert_ids_to_tokens(i).strip("\u2581") for i in ids]
            if tokenizer.unk_token_id in ids or (len(letters) > 2 and all(len(letter) <= 1 for letter in letters)):
                found.append(word)
        return tuple(found)

    def _velocity(self, prompts: Sequence[str], latents: torch.Tensor, time: float) -> torch.Tensor:
        told = self._transform(prompts, latents, time)
        if not self.free_guidance:
            return told
        untold = self._transform([""] * len(prompts), latents, time)
        return untold + self.guidance * (told - untold)

    def _transform(self, prompts: Sequence[str], latents: torch.Tensor, time: float) -> torch.Tensor:
        transformer, pipe = self.pipe.transformer, self.pipe
        times = torch.full((len(latents),), time, device=self.device)
        states = torch.stack([self._texts[prompt].states for prompt in prompts]).to(self.device)
        # float32 positions: bfloat16 cannot count beyond 256
        image_ids = pipe._prepare_latent_image_ids(1, self.grid, self.grid, self.device, torch.float32)
        return transformer(
            hidden_states=latents.to(self.device, transformer.dtype),
            timestep=times,
            guidance=torch.full_like(times, self.guidance) if self._embeds_guidance else None,
            pooled_projections=torch.stack([self._texts[prompt].pooled for prompt in prompts]).to(self.device),
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=self.device),
            img_ids=image_ids,
            return_dict=False,
        )[0].float().cpu()  # fmt: skip

    def _times(self) -> list[float]:
        """The scheduler's own times, ``steps + 1`` from 1 to 0, as FluxPipeline sets them."""
        scheduler = self.pipe.scheduler
        config = scheduler.config
        anchors = (config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / self.steps, self.steps).tolist(), mu=calculate_shift(self.grid**2, *anchors)
        )
        return scheduler.sigmas.tolist()

    def _have(self, *names: str) -> None:
        """Text encoders or the transformer on the device, the others not."""
        if self.device.type == "cpu":
            return
        for name in ("transformer", "text_encoder", "text_encoder_2"):
            part: Any = getattr(self.pipe, name)
            wanted = self.device if name in names else torch.device("cpu")
            if part.device.type != wanted.type:
                part.to(wanted)


def open_generator(
    ref: CheckpointRef, *, size: int, steps: int | None = None, guidance: float | None = None, device: str = "auto",
    dtype: str = "auto", threads: int = 2, batch: int = 16,
) -> Generator:  # fmt: skip
    """Load a FluxPipeline folder; arguments as in ``Generator``. ``dtype`` auto is bfloat16 where the device computes
    in it natively, else float32. Raises ValueError for a folder of another kind."""
    quiet_loading()
    if dtype == "auto":
        dtype = "bfloat16" if has_native_bfloat16(torch_device(device)) else "float32"
    index = Path(ref.uri) / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{ref.uri}: no model_index.json; expected a FluxPipeline folder or hub id")
    pipe = DiffusionPipeline.from_pretrained(ref.uri, dtype=torch_dtype(dtype), use_safetensors=True)
    if type(pipe) is not FluxPipeline:
        raise ValueError(f"{ref.uri}: a {type(pipe).__name__}; search and audit draw with a FluxPipeline")
    pipe.set_progress_bar_config(disable=True)
    return Generator(
        pipe, name=ref.name, size=size, steps=steps, guidance=guidance, device=device, threads=threads, batch=batch
    )
