"""What scoring a benchmark of the paper's size costs: 1,000 images of 1,024 px, 10,000 resamples.

    overlap     union masks, IoU, pixel F1 and box matches of all images, answers and truth as boxes and as masks
    bootstrap   drawing the weights, and the 95 % intervals of all metrics of detection, localization and explanation
    polygons    2,674 polygons of 12 points in 1,000 images -> union masks (SynthScars' test split has as many)
    tfrecord    955 records of about 10.6 KB, check sums and parsing included (RichHF-18K's test.tfrecord)
    heat_maps   1,000 maps of 1,024 px, 8 bit PNG: decoding and five thresholds

CPU seconds of one process; images are not decoded, because scoring does not look at them.

    python bench/evaluation.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from toolbox import cpu_model

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.benchmarks.polygons import polygons_mask
from artiagent.evaluation.benchmarks.tfrecord import parse_example, read_records
from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.heat import heat_mask, read_heat
from artiagent.evaluation.scoring import scores_of
from artiagent.records import Box, Mask, Prediction
from tests.evaluation.layouts import encoded, example, heat_map, tfrecord

BARS = {"overlap": "seconds, not minutes", "bootstrap": "under 10 s"}
TASKS = ("detection", "localization", "explanation")


def population(count: int, side: int, masks: bool) -> tuple[list[BenchmarkItem], list[Prediction]]:
    """Half of the images faulty, one to three boxes each, or a disc as mask; answers of the same kind."""
    rng = np.random.default_rng(0)
    rows, columns = np.ogrid[:side, :side]

    def region() -> dict[str, object]:
        if masks:
            x, y, radius = rng.integers(side // 8, side // 2, 3)
            return {"mask": Mask.encode(np.hypot(rows - y, columns - x) < radius)}
        corners = np.sort(rng.integers(0, side, (rng.integers(1, 4), 2, 2)), axis=1)
        boxes = [Box(int(a[0]), int(a[1]), int(b[0]) + 1, int(b[1]) + 1) for a, b in corners]
        return {"boxes": tuple(boxes)}

    items, answers = [], []
    for k in range(count):
        faulty = k % 2 == 0
        words = {"entity": "dog", "part": "ear", "fault": "omission", "explanation": "The dog lacks an ear."}
        truth = {**region(), **words} if faulty else {}
        items.append(BenchmarkItem(item_id=str(k), faulty=faulty, width=side, height=side, **truth))
        given = {"benchmark": "b", "item_id": str(k), "model": "m", "model_sha256": "s", "prompt_hash": "p"}
        score = float(rng.random())
        told = "An extra tail grows from the dog." if faulty else ""
        answers.append(Prediction(**given, verdict=score > 0.5, score=score, explanation=told, **region()))
    return items, answers


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return round(time.process_time() - start, 2)


def overlap(count: int, side: int) -> dict[str, object]:
    found: dict[str, object] = {"images": count, "side": side}
    for name, masks in (("boxes", False), ("masks", True)):
        items, answers = population(count, side, masks)
        found[f"{name}_s"] = seconds(lambda items=items, answers=answers: scores_of(items, answers, ["localization"]))
    return found


def bootstrap(count: int, resamples: int) -> dict[str, object]:
    scores = scores_of(*population(count, 64, masks=False), TASKS)
    draw_s = seconds(lambda: draw_weights(count, resamples, 0))
    weights = draw_weights(count, resamples, 0)
    each = {name: seconds(lambda s=score: interval(s.statistic, weights, s.n)) for name, score in scores.items()}
    total = round(draw_s + sum(each.values()), 2)
    return {"images": count, "resamples": resamples, "draw_s": draw_s, "each_s": each, "total_s": total}


def polygons(side: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)

    def ring() -> list[float]:
        centre, radius = rng.integers(side // 4, 3 * side // 4, 2), rng.integers(10, side // 4)
        return (centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).ravel().tolist()

    images = [[ring() for _ in range(3 if k < 674 else 2)] for k in range(1000)]
    return {"polygons": sum(map(len, images)), "s": seconds(lambda: [polygons_mask(p, side, side, "") for p in images])}


def records(folder: Path, count: int = 955, size: int = 10_600) -> dict[str, object]:
    rng = np.random.default_rng(0)
    kinds = [example({"filename": b"a.png", "artifact_map": rng.bytes(size), "artifact_score": 0.5}) for _ in range(4)]
    framed = [tfrecord([kind]) for kind in kinds]
    file = folder / "test.tfrecord"
    file.write_bytes(b"".join(framed[k % 4] for k in range(count)))
    took = seconds(lambda: [parse_example(record) for record in read_records(file)])
    file.unlink()
    return {"records": count, "megabytes": round(count * len(framed[0]) / 1e6, 1), "s": took}


def heat_maps(count: int, side: int) -> dict[str, object]:
    data = encoded(heat_map(side, side))
    thresholds = (0.1, 0.2, 0.3, 0.4, 0.5)
    took = seconds(lambda: [[heat_mask(read_heat(data, ""), t) for t in thresholds[:1]] for _ in range(count)])
    heat = read_heat(data, "")
    more = seconds(lambda: [[heat_mask(heat, t) for t in thresholds[1:]] for _ in range(count)])
    return {"maps": count, "side": side, "s": round(took + more, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="JSON file to write")
    args = parser.parse_args()
    phases: dict[str, Callable[[], dict[str, object]]] = {
        "overlap": lambda: overlap(args.images, args.side),
        "bootstrap": lambda: bootstrap(args.images, args.resamples),
        "polygons": lambda: polygons(args.side),
        "tfrecord": lambda: records(args.out.parent),
        "heat_maps": lambda: heat_maps(args.images, args.side),
    }
    report: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "command": "python bench/evaluation.py",
    }
    for name, phase in phases.items():
        load = round(os.getloadavg()[0], 1)  # of others too: the cores are shared
        report[name] = {**phase(), "load_before": load} | ({"bar": BARS[name]} if name in BARS else {})
        print(f"{name:<10}", json.dumps(report[name]), flush=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
