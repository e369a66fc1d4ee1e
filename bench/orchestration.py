"""What ZenML, MLflow and the steps around the library cost: a whole run's wall time, less the library's own work.

One process as a person starts it, in a home of its own; every item is measured, and what is left is named too.

    python bench/orchestration.py                       # configs/nano.yaml, then the same again, unchanged
    python bench/orchestration.py --set inputs.sets.0.limit=24 --set sft.stages.0.epochs=1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from toolbox import cpu_model

from artiagent.store import write_atomic

PHASES = ("prepare", "settle", "input_digests", "check_publishable", "execute", "collect", "print_results")
LIBRARY_EFFECTS = ("artiagent.publish.publish", "artiagent.report.write_report")
RECORDS = ("pipelines.runs.open_run", "pipelines.runs.close_run")


def child(out: Path, arguments: list[str]) -> int:
    """Run the command line in this process and write when its phases began and what each took."""
    begun = time.time()
    import pipelines.cli
    from artiagent import cli

    times: dict[str, float] = {}
    imported = time.time()
    with ExitStack() as stack:
        for name in PHASES:
            stack.enter_context(
                mock.patch.object(pipelines.cli, name, _timed(name, getattr(pipelines.cli, name), times))
            )
        for name in (*LIBRARY_EFFECTS, *RECORDS):
            stack.enter_context(mock.patch(name, _timed(name, _named(name), times)))
        code = cli.main(["run", *arguments])
    ended = time.time()
    facts = {"begun": begun, "imported": imported, "ended": ended, "phases": times, "steps": _steps()}
    facts["looking"] = time.time() - ended  # this measurement's own questions to ZenML
    write_atomic(out, json.dumps(facts).encode())
    return code


def _timed(name: str, function: Callable[..., Any], times: dict[str, float]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            times[name] = times.get(name, 0.0) + time.perf_counter() - start

    return wrapped


def _named(dotted: str) -> Callable[..., Any]:
    module, name = dotted.rsplit(".", 1)
    return getattr(__import__(module, fromlist=[name]), name)


def _steps() -> dict[str, dict[str, Any]]:
    """Wall seconds of every step of the last run as ZenML saw it, and the seconds of the library inside."""
    from zenml.client import Client

    run = Client().list_pipeline_runs(sort_by="desc:created", size=1).items[0]
    found = {}
    for name, step in Client().get_pipeline_run(run.id).steps.items():
        refs = [artifact.load() for outputs in step.outputs.values() for artifact in outputs]
        cached = step.status.value == "cached"
        own = 0.0 if cached or not refs else max(float(ref.summary.get("seconds", 0)) for ref in refs)
        wall = (step.end_time - step.start_time).total_seconds() if step.end_time and step.start_time else 0.0
        found[name] = {"cached": cached, "wall": wall, "library": own}
    return found


def itemise(facts: dict[str, Any], started: float, ended: float) -> dict[str, Any]:
    """Seconds by item; ``outside`` is what is neither a stage's own work nor publishing, report and input digests."""
    phases, steps = facts["phases"], facts["steps"]
    effects = sum(phases.get(name, 0.0) for name in LIBRARY_EFFECTS)
    stages = sum(step["library"] for step in steps.values())
    inputs = phases["settle"] + phases["input_digests"] + phases["check_publishable"]
    inside_steps = sum(step["wall"] for step in steps.values())
    total = ended - started - facts["looking"]
    items = {
        "python, imports": facts["imported"] - started,
        "preparing ZenML": phases["prepare"],
        "steps beyond the library's work": inside_steps - stages - effects,
        "between steps": phases["execute"] - inside_steps,
        "collecting and printing": phases["collect"] + phases["print_results"],
        "record of the run": sum(phases.get(name, 0.0) for name in RECORDS),
        "end of the process": ended - facts["ended"] - facts["looking"],
    }
    own = stages + effects + inputs
    items["other, imports of the steps included"] = total - own - sum(items.values())
    outside = total - own
    return {
        "total": round(total, 2), "library": round(own, 2), "outside": round(outside, 2),
        "share": round(outside / total, 3), "items": {name: round(value, 2) for name, value in items.items()},
        "steps": {
            name: {"cached": step["cached"], "wall": round(step["wall"], 2), "library": round(step["library"], 2)}
            for name, step in steps.items()
        },
    }  # fmt: skip


def measure(home: Path, arguments: list[str]) -> dict[str, Any]:
    out = home / "facts.json"
    environment = {**os.environ, "ARTIAGENT_HOME": str(home), "ZENML_CONFIG_PATH": str(home / "zenml")}
    started = time.time()
    command = [sys.executable, __file__, "--child", str(out), "--", *arguments]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return itemise(json.loads(out.read_text()), started, time.time())


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options.add_argument("--config", default="configs/nano.yaml")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    asked = options.parse_args()
    arguments = ["--config", asked.config, *(part for value in asked.set for part in ("--set", value))]
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: measure(Path(folder), arguments) for name in ("first run", "the same again")}
    report = {
        "date": time.strftime("%Y-%m-%d"), "cpu": cpu_model(), "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1), "command": "python bench/orchestration.py", "arguments": arguments,
        "runs": runs,
    }  # fmt: skip
    write_atomic(asked.out, json.dumps(report, indent=1).encode())
    for name, run in runs.items():
        print(f"{name}: {run['total']} s, of which {run['outside']} s ({run['share']:.0%}) outside the library")
        print("".join(f"  {seconds:7.2f}  {item}\n" for item, seconds in run["items"].items()), end="")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(Path(sys.argv[2]), sys.argv[4:]))
    main()
