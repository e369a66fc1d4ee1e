"""Injection of positions and values into self-attention, through diffusers' attention-processor interface.

The processor reads everything from one explicit ``InjectionState``: which phase runs, the rotary tables per row, the
cached values. It holds no policy; the engine decides the phases (spec: synthesis, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import apply_rotary_emb

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
        self.values = torch.zeros(len(nodes), blocks, tokens, heads, head_dim, dtype=dtype, device=device)
        self.filled: set[int] = set()

    @property
    def nbytes(self) -> int:
        return self.values.numel() * self.values.element_size()

    def record(self, node: int, block: int, value: torch.Tensor) -> None:
        """Store the values [1, L, heads, head_dim] of one call."""
        self.values[self.slot_of[node], block].copy_(value[0])
        self.filled.add(node)

    def read(self, node: int, block: int, like: torch.Tensor) -> torch.Tensor:
        """Values [L, heads, head_dim] in dtype and device of ``like``."""
        return self.values[self.slot_of[node], block].to(device=like.device, dtype=like.dtype)


@dataclass
class InjectionState:
    """What the processors do in the current model call.

    Attributes:
        recording: cache to fill (inversion), or None.
        cache: cache to inject from, or None when values run live.
        node: schedule node of the call.
        gather: image token whose cached value each token takes, int64 [B, L].
        live: True where a token keeps its own value, bool [B, L, 1, 1]; None for nowhere.
        rotary: per-row rotary tables [B, S, D] for the position blocks, or None for the model's own.
    """

    recording: ValueCache | None = None
    cache: ValueCache | None = None
    node: int = 0
    gather: torch.Tensor | None = None
    live: torch.Tensor | None = None
    rotary: Rotary | None = None
    calls: int = field(default=0)

    def clear(self) -> None:
        """Back to an unpatched forward pass."""
        self.recording = self.cache = self.gather = self.live = self.rotary = None


class InjectionProcessor:
    """Attention of a FLUX block with per-row positions and injected values.

    Args:
        state: the shared context of the call.
        value_block: index of this block in the value cache, or None if its values are never touched.
        positions: whether this block takes the state's rotary tables.
    """

    def __init__(self, state: InjectionState, value_block: int | None, positions: bool) -> None:
        self.state, self.value_block, self.positions = state, value_block, positions

    def __call__(
        self,
        attn: torch.nn.Module,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        query, key, value = (self._heads(attn, p(hidden_states)) for p in (attn.to_q, attn.to_k, attn.to_v))
        query, key = attn.norm_q(query), attn.norm_k(key)
        if encoder_hidden_states is not None:
            text = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
            text_q, text_k, text_v = (self._heads(attn, p(encoder_hidden_states)) for p in text)
            query = torch.cat([attn.norm_added_q(text_q), query], dim=1)
            key = torch.cat([attn.norm_added_k(text_k), key], dim=1)
            value = torch.cat([text_v, value], dim=1)
        value = self._values(value)
        rotary = self.state.rotary if self.positions and self.state.rotary is not None else image_rotary_emb
        query, key = rotate(query, rotary), rotate(key, rotary)
        mixed = F.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=attention_mask
        )
        mixed = mixed.transpose(1, 2).flatten(2).to(query.dtype)
        if encoder_hidden_states is None:
            return mixed
        split = encoder_hidden_states.shape[1]
        image = attn.to_out[1](attn.to_out[0](mixed[:, split:]))
        return image, attn.to_add_out(mixed[:, :split])

    @staticmethod
    def _heads(attn: torch.nn.Module, projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, attn.head_dim))

    def _values(self, value: torch.Tensor) -> torch.Tensor:
        """Record or replace the image part of ``value`` [B, S, heads, head_dim]; text tokens stay live."""
        state, block = self.state, self.value_block
        if block is None:
            return value
        if state.recording is not None and state.node in state.recording.slot_of:
            length = state.recording.values.shape[2]
            state.recording.record(state.node, block, value[:, -length:])
        if state.cache is None or state.gather is None:
            return value
        length = state.gather.shape[1]
        cached = state.cache.read(state.node, block, value)[state.gather]
        image = cached if state.live is None else torch.where(state.live, value[:, -length:], cached)
        return torch.cat([value[:, :-length], image], dim=1)


def rotate(x: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
    """Apply rotary tables [S, D] or [B, S, D] to ``x`` [B, S, heads, D]."""
    if rotary is None:
        return x
    cos, sin = rotary
    if cos.ndim == 2:
        return apply_rotary_emb(x, rotary, sequence_dim=1)
    real, imag = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-imag, real], dim=-1).flatten(3)
    return (x.float() * cos[:, :, None] + turned.float() * sin[:, :, None]).to(x.dtype)


def gather_rows(rotary: Rotary, index: torch.Tensor, text_tokens: int) -> Rotary:
    """Per-row tables: image token i of row b takes the position of image token ``index[b, i]``.

    Args:
        rotary: the model's tables [text + L, D].
        index: int64 [B, L].
        text_tokens: leading rows that stay as they are.
    """
    full = F.pad(index + text_tokens, (text_tokens, 0))
    full[:, :text_tokens] = torch.arange(text_tokens, device=index.device)
    return rotary[0][full], rotary[1][full]
