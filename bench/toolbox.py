"""How long the toolbox takes per artifact, for every tool and kernel, on seeded grids of several sizes.

Each tool maps the same random scenes: a part (an ellipse of .5 to 20 % of the grid, round or limb-like), its owner, a
second instance of its class, and a pair of overlapping entities. Printed and written as JSON:

    median    over all calls
    worst     the slowest scene, as the median of its repeats: what the machine does meanwhile is left out
    slowest   the slowest single call, interruptions included
    mapped    scenes that gave a mapping rather than a rejection

    python bench/toolbox.py --sizes 16 32 64
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import scipy

from artiagent.config import PlanningSection
from artiagent.synthesis.toolbox import Mapped, NoMapping, benign, distort
from artiagent.synthesis.toolbox.add import add
from artiagent.synthesis.toolbox.fuse import fuse
from artiagent.synthesis.toolbox.remove import remove

LARGEST_PART = 0.2  # share of the grid


@dataclass(frozen=True)
class Scene:
    """Bool grids [n, n]: what the planner hands to the tools for one part and one pair of entities."""

    part: np.ndarray
    owner: np.ndarray
    others: np.ndarray
    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class Timing:
    """Milliseconds per call of one tool on one grid size."""

    tool: str
    grid: int
    median_ms: float
    worst_ms: float
    slowest_ms: float
    mapped: int
    scenes: int


Case = Callable[[Scene, np.random.Generator], Mapped | NoMapping]


def cases(size: int) -> dict[str, Case]:
    """Every tool and kernel with the default parameters."""
    section = PlanningSection()
    # The paper's ring measures from the centroid: its radius must let the largest part leave itself.
    centroid = section.model_copy(update={"placement": "centroid_ring", "add_radius": size // 2})
    return {
        "add contour_ring": lambda s, rng: add(s.part, s.owner, s.others, rng, section),
        "add centroid_ring": lambda s, rng: add(s.part, s.owner, s.others, rng, centroid),
        "remove": lambda s, rng: remove(s.part, s.owner, s.others | s.part, section.remove_radius),
        "distort shuffle": lambda s, rng: distort.shuffle(s.part, rng),
        "distort jitter": lambda s, rng: distort.jitter(
            s.part, s.owner, rng, section.jitter_sigma, section.jitter_attempts
        ),
        "distort strip": lambda s, rng: distort.strip(s.part, section.strips),
        "fuse": lambda s, rng: fuse(s.a, s.b, s.a | s.b, rng, section),
        "benign background": lambda s, rng: benign.background(s.part, s.owner | s.others, rng),
    }


def ellipse(size: int, centre: np.ndarray, share: float, aspect: float, angle: float) -> np.ndarray:
    """Bool [size, size]: an ellipse of ``share`` of the grid, clipped at the frame; (row, col) centre, radians."""
    long = size * np.sqrt(share * aspect / np.pi)
    rows, cols = np.mgrid[:size, :size] - centre[:, None, None]
    along = rows * np.sin(angle) + cols * np.cos(angle)
    across = rows * np.cos(angle) - cols * np.sin(angle)
    return along**2 + (across * aspect) ** 2 <= long**2


def scene(size: int, rng: np.random.Generator) -> Scene:
    """A part at the border of its owner, a second part like it, and two entities that overlap."""

    def towards(distance: float) -> np.ndarray:
        angle = rng.uniform(0, 2 * np.pi)
        return distance * size * np.array([np.sin(angle), np.cos(angle)])

    share = np.exp(rng.uniform(np.log(max(0.005, 8 / size**2)), np.log(LARGEST_PART)))
    aspect, angle = rng.uniform(1, 6), rng.uniform(0, np.pi)
    centre = rng.uniform(0.15, 0.85, 2) * size
    part = ellipse(size, centre, share, aspect, angle)
    body_share = rng.uniform(0.05, 0.35)
    beside = centre + towards(0.8 * (np.sqrt(share / np.pi) + np.sqrt(body_share / np.pi)))
    body = ellipse(size, beside, body_share, rng.uniform(1, 2), rng.uniform(0, np.pi))
    others = ellipse(size, rng.uniform(0.1, 0.9, 2) * size, share, aspect, rng.uniform(0, np.pi))
    first, second = rng.uniform(0.08, 0.4, 2)
    middle = rng.uniform(0.35, 0.65, 2) * size
    apart = towards(rng.uniform(0.5, 0.9) * (np.sqrt(first / np.pi) + np.sqrt(second / np.pi)))
    a = ellipse(size, middle - apart / 2, first, rng.uniform(1, 2), rng.uniform(0, np.pi))
    b = ellipse(size, middle + apart / 2, second, rng.uniform(1, 2), rng.uniform(0, np.pi))
    return Scene(part, body | part, others & ~part, a, b)


def timing(tool: str, case: Case, scenes: list[Scene], repeats: int) -> Timing:
    """Time ``case`` on every scene, ``repeats`` times each after one call that is not counted."""
    milliseconds = np.empty((len(scenes), repeats))
    mapped = 0
    for i, item in enumerate(scenes):
        mapped += isinstance(case(item, np.random.default_rng(i)), Mapped)
        for k in range(repeats):
            rng = np.random.default_rng(i)
            start = time.perf_counter()
            case(item, rng)
            milliseconds[i, k] = 1000 * (time.perf_counter() - start)
    per_scene = np.median(milliseconds, axis=1)
    values = (float(np.median(milliseconds)), float(per_scene.max()), float(milliseconds.max()))
    return Timing(tool, scenes[0].part.shape[0], *(round(v, 3) for v in values), mapped, len(scenes))


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def measure(sizes: list[int], scenes: int, repeats: int, seed: int) -> list[Timing]:
    timings = []
    for size in sizes:
        rng = np.random.default_rng([seed, size])
        drawn = [scene(size, rng) for _ in range(scenes)]
        timings += [timing(tool, case, drawn, repeats) for tool, case in cases(size).items()]
    return timings


def table(timings: list[Timing]) -> str:
    head = f"{'tool':<20}{'grid':>6}{'median ms':>11}{'worst ms':>11}{'slowest ms':>12}{'mapped':>9}"
    rows = [
        f"{t.tool:<20}{t.grid:>6}{t.median_ms:>11.3f}{t.worst_ms:>11.3f}{t.slowest_ms:>12.3f}{t.mapped:>6}/{t.scenes}"
        for t in timings
    ]
    return "\n".join([head, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64], help="grid sides in patches")
    parser.add_argument("--scenes", type=int, default=40, help="random scenes per size")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="JSON file to write")
    args = parser.parse_args()
    timings = measure(args.sizes, args.scenes, args.repeats, args.seed)
    print(table(timings))
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "repeats": args.repeats,
        "seed": args.seed,
        "timings": [asdict(t) for t in timings],
    }
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
