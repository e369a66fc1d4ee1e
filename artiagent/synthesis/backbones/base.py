"""What all adapters of diffusers pipelines share: loading, precision, placement of the parts, schedule, pixels.

Text encoders and transformer never lie on an accelerator together: prompts are embedded ahead in one go, results wait
on the CPU. Weights have the configured type, latents and times are float32 (in bfloat16 every update is rounded).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin

from artiagent.config import SynthesisSection
from artiagent.devices import quiet_loading, torch_device, torch_dtype
from artiagent.synthesis.injection import InjectedAttention, InjectionState, Rotary
from artiagent.synthesis.memory import Size, decodes_together, tensor_bytes
from artiagent.synthesis.solvers import flux_times, resolution_mu, stretch_to

GRAPHS = 64  # compiled graphs of a block's class; beyond it torch raises an error


class PipelineBackbone(ABC):
    """Adapter of a diffusers pipeline; see ``Backbone`` for the contract. Subclasses know one model family."""

    transformer_class: ClassVar[type[ModelMixin]]
    encoders: ClassVar[tuple[str, ...]]  # names of the pipeline's text encoders
    per_latent: ClassVar[int] = 2  # latents per token, each way
    factors: ClassVar[dict[str, float]]  # typed, packed, pixel: see artiagent.synthesis.memory

    def __init__(self, pipe: DiffusionPipeline, section: SynthesisSection) -> None:
        """Take over an assembled pipeline; its attention processors are replaced."""
        self.device, self.dtype = torch_device(section.device), torch_dtype(section.dtype)
        self.pipe, self.section = pipe, section
        pipe.set_progress_bar_config(disable=True)
        self.patch = pipe.vae_scale_factor * self.per_latent
        self.state = InjectionState()
        self._library = dict(pipe.transformer.attn_processors)
        self.value_blocks = self._install()
        self._quantize()
        self._place()

    @classmethod
    def load(cls, folder: Path, section: SynthesisSection) -> PipelineBackbone:
        """Read a pipeline folder. Raises ValueError for transformer weights that do not fit their configuration."""
        quiet_loading()
        dtype = torch_dtype(section.dtype)
        try:
            transformer, info = cls.transformer_class.from_pretrained(
                folder / "transformer", dtype=dtype, output_loading_info=True
            )
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"{folder / 'transformer'}: the weights do not fit its config.json ({str(error)[:300]})"
            ) from error
        if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
            raise ValueError(
                f"{folder / 'transformer'}: weights of another architecture: {len(wrong)} tensors do not fit its "
                f"config.json, e.g. {wrong[0]}"
            )
        backbone = cls(DiffusionPipeline.from_pretrained(folder, transformer=transformer, dtype=dtype), section)
        if section.compile == "blocks":
            backbone.compile()
        return backbone

    def compile(self, backend: str = "inductor") -> None:
        """Compile the blocks: a dozen graphs, one for each kind of block and phase, for any number of tokens.

        Graphs of fixed sizes would be made anew for every length of a caption and every size of the regions; so would
        graphs that take sizes that happen to be equal for the same one.
        """
        import torch._dynamo
        import torch.fx.experimental._config

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, GRAPHS)
        torch.fx.experimental._config.use_duck_shape = False
        self.pipe.transformer.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)

    @contextmanager
    def unpatched(self) -> Iterator[None]:
        """The library's own attention processors for a while, for comparison."""
        transformer = self.pipe.transformer
        ours = dict(transformer.attn_processors)
        transformer.set_attn_processor(dict(self._library))
        try:
            yield
        finally:
            transformer.set_attn_processor(ours)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        if height % self.patch or width % self.patch:
            raise ValueError(f"image of {width}x{height} px: both sides must be multiples of {self.patch} px")
        return height // self.patch, width // self.patch

    def schedule(self, steps: int, grid: tuple[int, int]) -> list[float]:
        config = self.pipe.scheduler.config
        anchors = (config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
        mu = resolution_mu(grid[0] * grid[1], *anchors) if config.use_dynamic_shifting else None
        return stretch_to(flux_times(steps, mu, config.shift), config.shift_terminal)

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> torch.Tensor:
        vae = self.pipe.vae
        pixels = torch.from_numpy(images.copy()).to(self.device).permute(0, 3, 1, 2).to(vae.dtype) / 127.5 - 1
        with self._present("vae"):
            latents = self._encode(pixels).float()
        batch, channels, height, width = latents.shape
        return self.pipe._pack_latents(latents, batch, channels, height, width)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor, grid: tuple[int, int]) -> np.ndarray:
        height, width = grid[0] * self.patch, grid[1] * self.patch
        rows = len(latents) if decodes_together(grid, self.patch) else 1
        with self._present("vae"):
            decoded = [self._pixels(part, height, width) for part in latents.split(rows)]
        return torch.cat(decoded).permute(0, 2, 3, 1).cpu().numpy()

    def _pixels(self, latents: torch.Tensor, height: int, width: int) -> torch.Tensor:
        unpacked = self.pipe._unpack_latents(latents, height, width, self.pipe.vae_scale_factor)
        return ((self._decode(unpacked).float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str]) -> list[Any]:
        with self._present(*self.encoders):
            return [self._embed(prompt) for prompt in prompts]

    @torch.inference_mode()
    def velocity(self, latents: torch.Tensor, time: float, prompt: Any, grid: tuple[int, int]) -> torch.Tensor:
        self.state.calls += 1
        self.state.tokens += latents.shape[0] * latents.shape[1]
        times = torch.full((len(latents),), time, device=self.device, dtype=torch.float32)
        return self._transform(latents.to(self.dtype), times, prompt, grid).float()

    def value_shape(self) -> tuple[int, int, int]:
        config = self.pipe.transformer.config
        return self.value_blocks, config.num_attention_heads, config.attention_head_dim

    def size(self) -> Size:
        config = self.pipe.transformer.config
        resident = [self.pipe.transformer, *([self.pipe.vae] if self.section.offload == "none" else [])]
        return Size(
            width=config.num_attention_heads * config.attention_head_dim,
            head_dim=config.attention_head_dim,
            value_blocks=self.value_blocks,
            patch=self.patch,
            weights=sum(tensor_bytes(p) for model in resident for p in model.parameters()),
            bytes=self.dtype.itemsize,
            channels=self._vae_channels(),
            **self.factors,
        )

    def _place(self) -> None:
        """Put the transformer, and the VAE where there is room, onto the device."""
        if self.device.type == "cpu":
            if self.section.offload != "none":
                raise ValueError(f"offload={self.section.offload!r} needs an accelerator; this device is the CPU")
            return
        self.pipe.vae.to(self.device if self.section.offload == "none" else "cpu")
        if self.section.offload == "blocks":
            self.pipe.transformer.enable_group_offload(
                onload_device=self.device, offload_device=torch.device("cpu"),
                offload_type="block_level", num_blocks_per_group=1, use_stream=True,
            )  # fmt: skip
        else:
            self.pipe.transformer.to(self.device)

    @contextmanager
    def _present(self, *names: str) -> Iterator[None]:
        """Have parts of the pipeline on the device for a while; the transformer makes room for text encoders."""
        parts = [getattr(self.pipe, name) for name in names]
        guests = [part for part in parts if part.device.type != self.device.type]
        swapped = guests and names == self.encoders and self.section.offload != "blocks"
        if swapped:
            self.pipe.transformer.to("cpu")
        try:
            for guest in guests:
                guest.to(self.device)
            yield
        finally:
            for guest in guests:
                guest.to("cpu")
            if swapped:
                self.pipe.transformer.to(self.device)

    def _quantize(self) -> None:
        if self.section.quantize == "none":
            return
        try:
            from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_
        except ImportError as error:
            raise ValueError(
                f"quantize={self.section.quantize!r} needs torchao; install the project with its extra 'quantize'"
            ) from error
        kinds = {"int8": Int8WeightOnlyConfig, "float8": Float8WeightOnlyConfig}
        for blocks in self.block_lists().values():  # the small layers around them keep their precision
            quantize_(blocks, kinds[self.section.quantize]())

    def block_lists(self) -> dict[str, torch.nn.ModuleList]:
        """The transformer's lists of blocks, by name."""
        return {n: m for n, m in self.pipe.transformer.named_children() if isinstance(m, torch.nn.ModuleList)}

    def _install_values(self, blocks: torch.nn.ModuleList, processor: type[InjectedAttention]) -> int:
        """Values to the last share ``value_blocks`` of ``blocks``, positions to those before (or all); returns how many
        take values."""
        count = round(self.section.value_blocks * len(blocks))
        for slot, block in enumerate(blocks, start=count - len(blocks)):
            positions = slot < 0 or self.section.pe_blocks == "all"
            block.attn.set_processor(processor(self.state, slot >= 0, positions))
        return count

    @abstractmethod
    def _install(self) -> int:
        """Put the processors into the blocks; returns how many of them take values."""

    @abstractmethod
    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels -1..1 [B, 3, H, W] to normalised latents [B, C, H / f, W / f]."""

    @abstractmethod
    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        """What ``_unpack_latents`` of the pipeline returned, to pixels [B, 3, H, W]."""

    @abstractmethod
    def _vae_channels(self) -> int:
        """Channels of the decoder's last, full-resolution level."""

    @abstractmethod
    def _embed(self, prompt: str) -> Any:
        """Conditioning of one prompt, on the CPU."""

    @abstractmethod
    def _transform(self, latents: torch.Tensor, times: torch.Tensor, prompt: Any, grid: tuple[int, int]) -> Any:
        """One transformer call; ``latents`` [B, M, C] in the weights' type, ``times`` float32 [B]."""

    @abstractmethod
    def random_prompt(self, tokens: int) -> Any:
        """Conditioning of ``tokens`` random tokens, for rehearsals without text encoders."""

    @abstractmethod
    def rotary(self, prompt: Any, grid: tuple[int, int]) -> tuple[Rotary, int]:
        """The model's rotary tables [text + L, D] and the number of text tokens."""
