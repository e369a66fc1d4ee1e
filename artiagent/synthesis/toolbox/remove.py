"""Remove (omission, Algorithm 2): a part is painted over with what surrounds it."""

from __future__ import annotations

import numpy as np

from artiagent.grid import dilate, indices_of
from artiagent.synthesis.toolbox import Mapped, NoMapping, mapping, nearest


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
    targets = indices_of(part)
    if not targets.size:
        return NoMapping("too_small", "the part covers no patch")
    neighbours = dilate(part, radius) & ~part
    other = neighbours & ~same_class
    background = neighbours & ~owner
    pool = background if 2 * background.sum() > other.sum() else other
    if not pool.any():
        return NoMapping("no_candidate", "nothing around the part to paint it over with")
    references = nearest(targets, indices_of(pool), part.shape)
    kind = "background" if pool is background else "other"
    return Mapped(mapping(part.shape, targets, references), params={"pool": kind})
