"""Remove (omission, Algorithm 2): a part is painted over with what surrounds it."""

from __future__ import annotations

import numpy as np

from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping_of
from artiagent.synthesis.toolbox.frame import Frame, frame


def remove(part: np.ndarray, owner: np.ndarray, same_class: np.ndarray, radius: int) -> Mapped | NoMapping:
    """Map every patch of ``part`` to its L1-nearest patch of the pool.

    The pool is the true background near the part if that is the larger share of the neighbourhood, else everything near
    that is not the same part class.

    Args:
        part: patches of the part, bool [h, w].
        owner: patches of the owner entity.
        same_class: patches of all instances of this part class, the part included.
        radius: L1 radius of the neighbourhood.
    """
    bits = frame(part.shape)
    return remove_set(bits, bits.pack(part), bits.pack(owner), bits.pack(same_class), radius)


def remove_set(bits: Frame, part: int, owner: int, same_class: int, radius: int) -> Mapped | NoMapping:
    """``remove`` for sets of patches."""
    if not part:
        return NoMapping("too_small", "the part covers no patch")
    neighbours = bits.grow(part, radius) & ~part
    other = neighbours & ~same_class
    background = neighbours & ~owner
    kind, pool = ("background", background) if 2 * background.bit_count() > other.bit_count() else ("other", other)
    if not pool:
        return NoMapping("no_candidate", "nothing around the part to paint it over with")
    targets = bits.indices(part).tolist()
    return Mapped(mapping_of(bits.shape, targets, bits.nearest(targets, pool)), params={"pool": kind})
