"""Injection of positions and values into joint attention, through diffusers' attention-processor interface.

One ``InjectionState`` says what every processor of a backbone does in the current call: which tables turn the queries
and keys, where values are recorded or taken from, and which variant attends to what. It holds tensors only, no policy:
the engine decides the phases (spec: synthesis, section 2). A processor adds the projections of its model family.

Compiled blocks share one graph as long as they differ in tensors only: no processor knows its number, each is shown its
own part of the value cache (``InjectionState.show``).

Tokens of a call are ``[text | image tokens]``. The image tokens are whole grids, one per row, or, packed in one row,
the clean twin's grid followed by the region tokens of every variant (``Packing``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

Rotary = tuple[torch.Tensor, torch.Tensor]  # cos, sin; [S, D] for all rows alike or [B, S, D] per row


class ValueCache:
    """Attention values of image tokens, one preallocated tensor ``[slots, blocks, L, heads, head_dim]``.

    Written during inversion, read-only afterwards. ``slots`` are the schedule's nodes inside the value window.
    """

    def __init__(
        self,
        nodes: list[int],
        blocks: int,
        tokens: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slot_of = {node: slot for slot, node in enumerate(nodes)}
        self.values = torch.empty(len(nodes), blocks, tokens, heads, head_dim, dtype=dtype, device=device)

    @property
    def nbytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    def slot(self, node: int) -> torch.Tensor | None:
        """View [blocks, L, heads, head_dim] of one node; None outside the window."""
        return self.values[self.slot_of[node]] if node in self.slot_of else None


@dataclass(frozen=True)
class Packing:
    """Which queries attend to which keys when variants share one row with the twin.

    A variant's region tokens see the text, their own kind, and the twin's tokens everywhere else.

    Attributes:
        queries: int64 [K, R], region tokens of each variant, padded by repetition.
        keys: int64 [K, text + L], the token that stands at each position of the variant's picture.
        scatter: int64 [sum R_k], where each region token's result lies in the flattened [K * R].
    """

    queries: torch.Tensor
    keys: torch.Tensor
    scatter: torch.Tensor

    @property
    def plain(self) -> int:
        """Leading tokens (text and twin) that attend among themselves."""
        return self.keys.shape[1]


@dataclass
class InjectionState:
    """What the processors do in the current model call.

    Attributes:
        own: rotary tables by own position, [S, D] or [B, S, D]; None leaves the model's.
        moved: tables with the targets at their references' positions; None with ``own``.
        gather: image token whose cached value each image token takes, int64 [B, M].
        live: True where a token keeps its own value, bool [B, M, 1, 1]; None for nowhere.
        packing: how variants share a row, or None for one variant per row.
        takers: processors of the blocks that take values, in order of the value cache.
        calls: transformer calls so far.
        tokens: image tokens that these calls processed.
    """

    own: Rotary | None = None
    moved: Rotary | None = None
    gather: torch.Tensor | None = None
    live: torch.Tensor | None = None
    packing: Packing | None = None
    takers: list[InjectedAttention] = field(default_factory=list)
    calls: int = 0
    tokens: int = 0

    def clear(self) -> None:
        """Back to an unpatched forward pass."""
        self.own = self.moved = self.gather = self.live = self.packing = None
        self.show()

    def show(self, record: torch.Tensor | None = None, values: torch.Tensor | None = None) -> None:
        """Hand the blocks their parts of a cache slot [blocks, L, heads, head_dim].

        Args:
            record: slot to fill (inversion).
            values: slot to take from; ``gather`` says which; without one values run live.
        """
        for block, taker in enumerate(self.takers):
            taker.record = None if record is None else record[block]
            taker.values = None if values is None else values[block]


class InjectedAttention:
    """The part of a processor that all model families share.

    Args:
        state: the shared context of the call.
        values: whether this block's values are recorded and replaced.
        positions: whether this block takes moved positions.
    """

    def __init__(self, state: InjectionState, values: bool, positions: bool) -> None:
        self.state, self.positions = state, positions
        self.record: torch.Tensor | None = None  # [L, heads, head_dim], this block's part of a slot
        self.values: torch.Tensor | None = None
        if values:
            state.takers.append(self)

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        rotary: Rotary | None,
    ) -> torch.Tensor:
        """Joint attention of ``[text | image]`` tokens, all [B, S, heads, head_dim]. Returns [B, S, heads * head_dim].

        ``rotary`` are the model's own tables, used outside an injection.
        """
        state = self.state
        value = self._values(value)
        tables = state.moved if self.positions else state.own
        tables = rotary if tables is None else tables
        query, key = rotate(query, tables), rotate(key, tables)
        if state.packing is None:
            mixed = _attention(query, key, value)
        else:
            mixed = _packed_attention(query, key, value, state.packing)
        return mixed.flatten(2).to(query.dtype)

    def _values(self, value: torch.Tensor) -> torch.Tensor:
        """Record or replace the image part of ``value`` [B, S, heads, head_dim]; text tokens stay live."""
        if self.record is not None:
            self.record.copy_(value[0, -self.record.shape[0] :])
        if self.values is None:
            return value
        state = self.state
        text = value.shape[1] - state.gather.shape[1]
        cached = self.values.to(device=value.device, dtype=value.dtype)[state.gather]
        image = cached if state.live is None else torch.where(state.live, value[:, text:], cached)
        return torch.cat([value[:, :text], image], dim=1)


def rotate(x: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
    """Apply rotary tables [S, D] or [B, S, D] to ``x`` [B, S, heads, D]; neighbours along D form the pairs."""
    if rotary is None:
        return x
    cos, sin = (table[..., None, :] for table in rotary)
    real, imag = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-imag, real], dim=-1).flatten(3)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def gather_rows(rotary: Rotary, index: torch.Tensor, text_tokens: int) -> Rotary:
    """Per-row tables: image token i of row b takes the position of grid cell ``index[b, i]``.

    Args:
        rotary: the model's tables [text + L, D].
        index: int64 [B, M].
        text_tokens: leading rows that stay as they are.
    """
    full = F.pad(index + text_tokens, (text_tokens, 0))
    full[:, :text_tokens] = torch.arange(text_tokens, device=index.device)
    return rotary[0][full], rotary[1][full]


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """[B, S, heads, head_dim], sequence before heads, as the processors hold them."""
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first).transpose(1, 2)


def _packed_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Attention of one packed row: the twin among itself, every variant's region in its own picture."""
    plain = packing.plain
    twin = _attention(query[:, :plain], key[:, :plain], value[:, :plain])
    regions = _attention(query[0][packing.queries], key[0][packing.keys], value[0][packing.keys])
    return torch.cat([twin, regions.flatten(0, 1)[packing.scatter][None]], dim=1)
