"""What the correction loop costs, and where its margins lie.

    cost        seconds per image of each of the loop's parts, one after the other on the same faulty images
    calibrate   how many images are fixed and how many clean ones altered at other thresholds and margins

Calibration looks at images that no report shows: another stretch of the benchmark's seeds (`--seed`), drawn and encoded
as the benchmark is. They go through the loop once, at a low threshold and without margins; then each setting is
replayed on the rows: a correction counts as applied where verdict and total gains reach the setting's numbers.

    python bench/correction.py --reward DIR --vlm DIR
    python bench/correction.py --reward DIR --vlm DIR --calibrate --items 200 --work calibration/
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from toolbox import cpu_model

from artiagent.checkpoints import checkpoint_ref
from artiagent.cli import NANO
from artiagent.config import BenchmarkSet, CorrectionSection, EvaluationSection
from artiagent.evaluation.benchmarks import read_items
from artiagent.grid import union_mask
from artiagent.images import decode
from artiagent.mitigation.correction.figures import Judged
from artiagent.mitigation.correction.loop import log_odds
from artiagent.mitigation.correction.panel import Models, open_panel
from artiagent.mitigation.correction.places import propose
from artiagent.mitigation.correction.stage import correct
from artiagent.records import CheckpointRef
from artiagent.run_config import load_config
from artiagent.store import read_rows

THRESHOLDS = (0.1, 0.2, 0.3, 0.5)
REWARD_MARGINS = (0.0, 0.5, 1.0, 2.0)  # nats
VERDICT_MARGINS = (0.0, 0.5, 1.0, 2.0)  # nats
ALTERED_MAX = 0.05  # share of clean images


def cost(section: CorrectionSection, evaluation: EvaluationSection, models: Models, items: int) -> dict[str, object]:
    """Wall seconds per image or repainting of each part, models loaded."""
    panel = open_panel(section, evaluation, models)
    benchmark = load_config(NANO).inputs.benchmarks[0]
    images = [decode(data) for item, data in read_items(benchmark) if item.faulty][:items]
    found: dict[str, object] = {"images": len(images)}

    def timed(name: str, work: Callable[[], object]) -> object:
        began = time.perf_counter()
        result = work()
        found[f"{name}_s"] = round((time.perf_counter() - began) / len(images), 4)
        return result

    told = timed("locate_and_describe", lambda: panel.witness(images))
    maps = timed("badness", lambda: panel.verifier.badness(images))
    timed("verifier", lambda: panel.verifier(images))
    timed("verdict", lambda: panel.vlm(images))
    places = [
        propose(section, one.boxes, badness, image.shape[1], image.shape[0])[0]
        for one, badness, image in zip(told, maps, images, strict=True)
    ]
    shown = [(k, some[0]) for k, some in enumerate(places) if some]
    masks = np.stack([union_mask(place.boxes, *images[k].shape[:2]) for k, place in shown])
    captions = [told[k].caption for k, _ in shown]
    timed(
        "repaint",
        lambda: panel.inpainter.repaint(np.stack([images[k] for k, _ in shown]), masks, captions, range(len(shown))),
    )
    found["calls_per_repainting"] = panel.inpainter.calls / len(shown)
    found["repaintings_per_round"] = round(section.candidates * float(np.mean([len(some) for some in places])), 1)
    return found


def calibrate(
    section: CorrectionSection, evaluation: EvaluationSection, models: Models, parser: CheckpointRef, work: Path,
    items: int, seed: int,
) -> list[dict[str, float]]:  # fmt: skip
    """Rows of the replay, those that alter few clean images first, then by how many are fixed."""
    from artiagent.nano.artibench import write_artibench
    from artiagent.nano.flux_vae import encode_path

    generator = load_config(NANO).inputs.generator
    place = write_artibench(
        work / "bench", items, seed=seed, encode=encode_path(Path(checkpoint_ref("g", generator).uri))
    )
    open_wide = section.model_copy(update={"threshold": min(THRESHOLDS), "reward_margin": 0.0, "verdict_margin": 0.0})
    benchmark = BenchmarkSet(name=f"drawn-{seed}", path=str(place / "drawn.parquet"))
    made = correct(open_wide, evaluation, benchmark, *models, parser, work / "corrected")
    rows = [row.record for row in read_rows(made, Judged, ())]
    return sorted(replayed(rows), key=lambda found: (found["altered_clean"] > ALTERED_MAX, -found["fixed"]))


def replayed(rows: Sequence[Judged]) -> Iterable[dict[str, float]]:
    """Shares at every combination of thresholds and margins."""
    for threshold, reward, verdict in itertools.product(THRESHOLDS, REWARD_MARGINS, VERDICT_MARGINS):
        applied = [
            row.altered
            and row.correction.verdict >= threshold
            and row.correction.verifier_after - row.correction.verifier > reward
            and log_odds(row.correction.verdict) - log_odds(row.correction.verdict_after) > verdict
            for row in rows
        ]
        passing = [row.passed_after if done else row.passed_before for row, done in zip(rows, applied, strict=True)]
        faulty = np.array([row.faulty for row in rows])
        yield {
            "threshold": threshold, "reward_margin": reward, "verdict_margin": verdict,
            "fixed": round(float(np.mean(np.array(passing)[faulty])), 4),
            "corrected": round(float(np.mean(np.array(applied)[faulty])), 4),
            "altered_clean": round(float(np.mean(np.array(applied)[~faulty])), 4),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward", required=True, help="reward folder")
    parser.add_argument("--vlm", required=True, help="fine-tuned model folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of artiagent")
    parser.add_argument("--items", type=int, default=16, help="images (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="stretch of seeds of the calibration; 0 is the benchmark")
    parser.add_argument("--calibrate", action="store_true")
    parser.add_argument("--work", type=Path, default=Path("calibration"), help="folder of the calibration; resumes")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="JSON file, merged into")
    args = parser.parse_args()
    config = load_config(NANO, args.set)
    models = Models(
        *(
            checkpoint_ref(*pair)
            for pair in (("inpainter", config.inputs.inpainter), ("reward", args.reward), ("vlm", args.vlm))
        )
    )
    known = json.loads(args.out.read_text()) if args.out.is_file() else {}
    told = {
        "date": datetime.now(UTC).date().isoformat(), "cpu": cpu_model(), "threads": config.correction.threads,
        "load_before": round(os.getloadavg()[0], 1), "settings": config.correction.model_dump(mode="json"),
    }  # fmt: skip
    if args.calibrate:
        judge = checkpoint_ref("parser", config.inputs.parser)
        rows = calibrate(config.correction, config.evaluation, models, judge, args.work, args.items, args.seed)
        known["calibrate"] = {**told, "items": args.items, "seed": args.seed, "rows": rows[:20]}
        print("\n".join(map(json.dumps, rows[:12])))
    else:
        known["cost"] = {**told, **cost(config.correction, config.evaluation, models, args.items)}
        print(json.dumps(known["cost"], indent=1))
    args.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
