"""How much memory an injection takes, and so how many variants share a batch.

    peak = weights + value cache + max(transformer, decoder)

    value cache  = slots x blocks x L x width x bytes of its type                         (spec: synthesis, rule 6)
    transformer  = T width (typed x bytes + 12) + 16 T head_dim                           T tokens, all rows together
    packed       = max(that, T width x packed x bytes + 2 K (text + L) width x bytes + 16 T head_dim)
    decoder      = pixel x rows x H x W x channels x bytes

Activations are those of the block that holds most: ``typed`` tensors of a token's width in the model's type and three
in float32 (rotation), and the rotary tables of every token (two pairs, float32). With packed variants the attention
holds a copy of the keys and values of every variant's picture beside ``packed`` tensors. ``pixel`` counts the pictures
that the decoder holds at its last level. The four factors were measured on the live tensors of the real classes; the
tests hold the prediction to 10 %.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from artiagent.config import SynthesisSection
    from artiagent.synthesis.backbones import Backbone

HEADROOM = 0.9  # share of the free memory that a batch may fill: the prediction holds within 10 %


@dataclass(frozen=True)
class Size:
    """Dimensions and factors of a model that decide about memory; ``weights`` and ``bytes`` (per value) in bytes."""

    width: int
    head_dim: int
    value_blocks: int
    patch: int
    weights: int
    bytes: int
    typed: float
    packed: float
    pixel: float
    channels: int  # of the decoder's last level


def cache_bytes(size: Size, section: SynthesisSection, slots: int, cells: int) -> int:
    """Bytes of the value cache for ``slots`` nodes of the schedule and ``cells`` tokens."""
    return slots * size.value_blocks * cells * size.width * getattr(torch, section.cache_dtype).itemsize


def activation_bytes(
    size: Size, section: SynthesisSection, grid: tuple[int, int], text: int, variants: int, share: float
) -> int:
    """Bytes beside weights and cache while ``variants`` variants and their twin run together.

    Args:
        grid: tokens of the picture.
        text: text tokens.
        share: the largest share of the picture that a variant's region covers (packed variants).
    """
    cells = grid[0] * grid[1]
    packed = section.variant_tokens == "region"
    tokens = text + cells * (1 + variants * share) if packed else (1 + variants) * (text + cells)
    tables = 16 * tokens * size.head_dim
    transformer = tokens * size.width * (size.typed * size.bytes + 12)
    if packed:
        pictures = 2 * variants * (text + cells) * size.width * size.bytes
        transformer = max(transformer, tokens * size.width * size.packed * size.bytes + pictures)
    rows = 1 + variants if decodes_together(grid, size.patch) else 1
    decoder = size.pixel * rows * cells * size.patch**2 * size.channels * size.bytes
    return int(max(transformer + tables, decoder))


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Bytes that a tensor holds; a quantized one holds others and gives the size of what it stands for."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and hasattr(tensor, "__tensor_flatten__"):
        return sum(tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def decodes_together(grid: tuple[int, int], patch: int) -> bool:
    """Whether the pictures of a batch are decoded in one go: large ones would outgrow the transformer."""
    return grid[0] * grid[1] * patch**2 <= 256 * 256


def variants_that_fit(backbone: Backbone, grid: tuple[int, int], text: int, share: float, wanted: int) -> int:
    """The most variants, up to ``wanted``, whose activations fit into the accelerator's free memory; at least 1.

    Weights and value cache must be in place. On the CPU: ``wanted``, so that pixels do not depend on what else runs.
    """
    if backbone.device.type != "cuda":
        return wanted
    free, _ = torch.cuda.mem_get_info(backbone.device)
    free += torch.cuda.memory_reserved(backbone.device) - torch.cuda.memory_allocated(backbone.device)
    size, section = backbone.size(), backbone.section
    fits = (k for k in range(wanted, 1, -1) if activation_bytes(size, section, grid, text, k, share) < HEADROOM * free)
    return next(fits, 1)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operations make while the mode is on; ``peak`` is their highest sum.

    For devices whose allocator keeps no statistics (the CPU). Views share a storage; what existed before counts not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # noqa: ANN001, ANN204  (torch's signature)
        known = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), known)
        return result

    def _count(self, storage: torch.UntypedStorage, known: set[int]) -> None:
        identity = storage._cdata
        if identity in self._seen or identity in known:
            return
        size = storage.nbytes()
        self._seen.add(identity)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, identity, size)

    def _forget(self, identity: int, size: int) -> None:
        self._seen.discard(identity)
        self.now -= size
