"""What every tool keeps for any input: a valid mapping or a typed refusal, and the same one for the same seed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import PlanningSection
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign, distort
from artiagent.synthesis.toolbox.add import add
from artiagent.synthesis.toolbox.fuse import fuse
from artiagent.synthesis.toolbox.remove import remove
from tests.synthesis.toolbox.grids import grid_sets

SECTION = PlanningSection()
CENTROID = PlanningSection(placement="centroid_ring", add_radius=5)
ANY_OVERLAP = PlanningSection(fuse_min_overlap=1, fuse_max_containment=1.0)

# part, owner, others and a seed; for a fusion: two entities and the core
Tool = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator], Mapped | NoMapping]
TOOLS: dict[str, Tool] = {
    "add_contour": lambda part, owner, others, rng: add(part, owner, others, rng, SECTION),
    "add_centroid": lambda part, owner, others, rng: add(part, owner, others, rng, CENTROID),
    "remove": lambda part, owner, others, rng: remove(part, owner, others | part, 2),
    "shuffle": lambda part, owner, others, rng: distort.shuffle(part, rng),
    "jitter": lambda part, owner, others, rng: distort.jitter(part, owner, rng, 1.5, 10),
    "strip": lambda part, owner, others, rng: distort.strip(part, 4),
    "fuse": lambda part, owner, others, rng: fuse(part, owner, others, rng, ANY_OVERLAP),
    "benign": lambda part, owner, others, rng: benign.background(part, owner, rng, margin=1),
}


def check(result: Mapped | NoMapping, shape: tuple[int, int]) -> None:
    if isinstance(result, NoMapping):
        assert result.detail
        return
    m = result.mapping
    assert m.grid == shape
    assert len(m.targets) == len(m.references) > 0
    assert list(m.targets) == sorted(set(m.targets))
    assert min(*m.targets, *m.references) >= 0 and max(*m.targets, *m.references) < shape[0] * shape[1]
    assert np.isfinite(result.score)


@pytest.mark.parametrize("name", TOOLS)
@settings(max_examples=60)
@given(grids=grid_sets(3), seed=st.integers(0, 99))
def test_valid_and_repeatable(name: str, grids: tuple[np.ndarray, ...], seed: int) -> None:
    before = [grid.copy() for grid in grids]
    first, again = (TOOLS[name](*grids, np.random.default_rng(seed)) for _ in range(2))
    check(first, grids[0].shape)
    assert first == again
    assert all((grid == copy).all() for grid, copy in zip(grids, before, strict=True))


def special(kind: str, shape: tuple[int, int] = (9, 7)) -> np.ndarray:
    grid = np.zeros(shape, dtype=bool)
    if kind == "frame":
        grid[[0, -1]] = grid[:, [0, -1]] = True
    elif kind == "corner":
        grid[0, 0] = True
    elif kind == "full":
        grid[:] = True
    return grid


@pytest.mark.parametrize("others", ["empty", "full"])
@pytest.mark.parametrize("owner", ["empty", "corner", "frame", "full"])
@pytest.mark.parametrize("part", ["empty", "corner", "frame", "full"])
def test_extremes_are_mapped_or_refused(part: str, owner: str, others: str) -> None:
    for name, tool in TOOLS.items():
        result = tool(special(part), special(owner), special(others), np.random.default_rng(0))
        check(result, (9, 7))
        if part == "empty" or (part == "corner" and name in ("shuffle", "jitter", "strip")):
            assert isinstance(result, NoMapping)


def fixed_mappings() -> list[str]:
    """Every tool on one scene, as text."""
    rows, cols = np.mgrid[:24, :26]
    part, owner = (rows - 8) ** 2 + (cols - 7) ** 2 <= 12, (rows - 10) ** 2 + (cols - 11) ** 2 <= 26
    others = (rows < 3) & (cols > 15)
    entity = (rows - 9) ** 2 + (cols - 5) ** 2 <= 20
    inputs = dict.fromkeys(TOOLS, (part, owner | part, others)) | {"fuse": (entity, owner, entity | owner)}
    return [f"{name} {tool(*inputs[name], np.random.default_rng(3)).mapping}" for name, tool in TOOLS.items()]


def test_same_mappings_in_a_new_process() -> None:
    code = "from tests.synthesis.toolbox.test_contract import fixed_mappings; print(*fixed_mappings(), sep='\\n')"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == fixed_mappings()
