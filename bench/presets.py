"""What `fast` saves against `paper`, and whether a detector trained on its pairs is as good.

Both presets render the same sources with the same number of variants, pass the same filters and train detectors of the
same recipe on the same number of accepted pairs. Three parts, each kept below --out and not repeated:

    pairs      plan, synthesis and curation of all sources with both presets: the share that is accepted
    seconds    single sources, the presets in turn in one process: wall and CPU seconds per pair
    detectors  --pairs accepted pairs each, --seeds: difference of the scores on the drawn benchmark

    python bench/presets.py --variants 4 --pairs 500 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from toolbox import cpu_model
from tqdm import tqdm

from artiagent.checkpoints import checkpoint_ref, locate
from artiagent.config import Config, InputSet
from artiagent.curation.stage import curate
from artiagent.perception.stage import perceive
from artiagent.records import DatasetRef, Job, Pair, Scene, stable_hash
from artiagent.run_config import load_config
from artiagent.store import open_dataset, read_rows, write_atomic
from artiagent.studies.records import read_runs
from artiagent.studies.rows import RunSpec, RunsSection
from artiagent.studies.runs import PairSet, run_all
from artiagent.studies.scores import Judged
from artiagent.synthesis.planner import plan
from artiagent.synthesis.render import PairRenderer, Source
from artiagent.synthesis.stage import synthesize

PRESETS = ("paper", "fast")  # the first is the reference
Made = dict[str, DatasetRef]


def make(config: Config, scenes: DatasetRef, out: Path) -> Made:
    """Plan, pairs and curated pairs of one preset."""
    generator, judge = checkpoint_ref("generator", config.inputs.generator), checkpoint_ref("base", config.inputs.vlm)
    jobs = open_dataset(out / "jobs") or plan(config.planning, scenes, config.perception.patch, out / "jobs")
    pairs = open_dataset(out / "pairs") or synthesize(config.synthesis, scenes, jobs, generator, out / "pairs")
    return {"jobs": jobs, "pairs": pairs, "curated": curate(config.curation, pairs, scenes, judge, out / "curated")}


def yields(made: Made) -> dict[str, Any]:
    """Planned and accepted pairs, over all and by tool, and row evaluations per accepted pair."""
    planned, accepted, cost = Counter[str](), Counter[str](), 0.0
    for row in read_rows(made["curated"], Pair, ()):
        tool = row.record.artifacts[0].injection.tool
        planned[tool] += 1
        accepted[tool] += row.record.accepted
        cost += float(row.record.sampling["row_evaluations"])
    faults = [tool for tool in planned if tool != "benign"]
    total, kept = sum(planned[t] for t in faults), sum(accepted[t] for t in faults)
    return {
        "planned": total,
        "accepted": kept,
        "acceptance": kept / total,
        "by_tool": {tool: f"{accepted[tool]}/{planned[tool]}" for tool in sorted(faults)},
        "row_evaluations_per_accepted": cost / kept,
    }


def seconds(configs: dict[str, Config], made: dict[str, Made], scenes: DatasetRef, sources: int) -> dict[str, Any]:
    """Wall and CPU seconds per planned pair on one core: the presets take turns, so that both meet the same noise."""
    renderers = {
        name: PairRenderer(c.synthesis, checkpoint_ref("g", c.inputs.generator)) for name, c in configs.items()
    }
    work = {name: batches(scenes, made[name]["jobs"], sources) for name in configs}
    wall, cpu, pairs = Counter[str](), Counter[str](), Counter[str]()
    shared = sorted(set.intersection(*(set(w) for w in work.values())))
    for name, render in renderers.items():
        render(work[name][shared[0]])  # the first call allocates
    for source in tqdm(shared, "seconds", unit="source"):
        for name, render in renderers.items():
            started, busy = time.perf_counter(), time.process_time()
            _, rows = render(work[name][source])
            wall[name] += time.perf_counter() - started
            cpu[name] += time.process_time() - busy
            pairs[name] += sum(not row.record.benign for row in rows)
    return {
        n: {"pairs": pairs[n], "wall_per_pair": wall[n] / pairs[n], "cpu_per_pair": cpu[n] / pairs[n]} for n in configs
    }


def batches(scenes: DatasetRef, jobs: DatasetRef, sources: int) -> dict[str, Any]:
    """The first sources of a plan with their jobs, by source id."""
    planned = groupby((row.record for row in read_rows(jobs, Job)), key=lambda job: job.source_id)
    wanted = {source: list(group) for source, group in islice(planned, sources)}
    return {row.key: Source(row, wanted[row.key]) for row in read_rows(scenes, Scene, wanted=wanted.__contains__)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/nano.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both presets")
    parser.add_argument("--variants", type=int, default=4, help="per source, for both presets")
    parser.add_argument("--pairs", type=int, default=500, help="accepted pairs a detector is trained on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sources", type=int, default=24, help="sources that are timed")
    parser.add_argument("--parts", nargs="+", default=["pairs", "seconds", "detectors"])
    parser.add_argument("--out", type=Path, default=Path(".artiagent/bench/presets"), help="working folder")
    parser.add_argument("--result", type=Path, default=Path("bench/presets.json"))
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text()) if arguments.result.is_file() else {}
    result |= measure(arguments)
    write_atomic(arguments.result, (json.dumps(result, indent=1) + "\n").encode())
    print(json.dumps(result, indent=1))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that --parts asks for."""
    common = [*arguments.set, f"planning.variants={arguments.variants}"]
    configs = {name: load_config(arguments.config, [*common, f"preset={name}"]) for name in PRESETS}
    config = configs["fast"]
    scenes = perceive(config.perception, [located(s) for s in config.inputs.sets if s.scored], arguments.out / "scenes")
    made = {name: make(c, scenes, arguments.out / name) for name, c in reversed(configs.items())}
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {cpu_model()}, no GPU",
        "variants": arguments.variants,
        "sources": scenes.rows,
        "yields": {name: yields(sets) for name, sets in made.items()},
    }
    if "seconds" in arguments.parts:
        found["seconds"] = seconds(configs, made, scenes, arguments.sources)
        rate = {n: found["yields"][n]["acceptance"] / found["seconds"][n]["cpu_per_pair"] for n in configs}
        found["accepted_per_second"] = rate | {"fast / paper": rate["fast"] / rate["paper"]}
    if "detectors" in arguments.parts:
        found["detectors"] = detectors(configs, made, scenes, arguments)
    return found


def located(source: InputSet) -> InputSet:
    annotations = str(locate(source.annotations)) if source.annotations else None
    return source.model_copy(update={"images": str(locate(source.images)), "annotations": annotations})


def detectors(
    configs: dict[str, Config], made: dict[str, Made], scenes: DatasetRef, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Scores of the detectors, means over the seeds, and the difference fast - paper."""
    config = configs["fast"]
    data = config.instruction.model_copy(update={"pairs": arguments.pairs})
    evaluation, benchmark = config.evaluation, config.inputs.benchmarks[0]
    specs = [
        RunSpec(data=name, instruction=data, sft=config.sft.model_copy(update={"seed": seed}), tasks=evaluation.tasks)
        for name in PRESETS
        for seed in arguments.seeds
    ]
    sets = {name: PairSet(made[name]["curated"], scenes) for name in PRESETS}
    base, folder = checkpoint_ref("base", config.inputs.vlm), arguments.out / f"study-{arguments.pairs}"
    section = RunsSection(runs=tuple(specs), evaluation=evaluation)

    def place(kind: str, *what: str) -> Path:
        return folder / kind / stable_hash(*what, length=20)

    found = read_runs(run_all(section, sets, base, benchmark, place, folder))
    judged = Judged(evaluation, benchmark, evaluation.resamples)
    count = len(arguments.seeds)
    runs = {name: found.runs[k * count : (k + 1) * count] for k, name in enumerate(PRESETS)}
    scores = {"base": judged.scores(found.base, evaluation.tasks)}
    scores |= {name: judged.averaged(runs[name], evaluation.tasks) for name in PRESETS}
    apart = {m: scores["fast"][m].minus(scores["paper"][m]) for m in scores["fast"]}
    return {
        "n": len(judged.items),
        "scores": {
            name: {m: drawn.interval().model_dump() for m, drawn in row.items()} for name, row in scores.items()
        },
        "differences": {"fast - paper": {m: drawn.interval().model_dump() for m, drawn in apart.items()}},
        "pairs": arguments.pairs,
    }


if __name__ == "__main__":
    main()
