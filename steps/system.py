"""What the machine does while a stage runs: MLflow's own system metrics, kept in a file beside the stage's output.

Beside and not inside: an output is known by its content, and times are no content. `metrics` reads them back for the
stage's MLflow run. Knows processor, memory and GPUs where there are any. Does not know MLflow's runs.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from mlflow.entities import Metric
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

SECONDS = 5.0


def samples_path(out: Path) -> Path:
    """File of the samples of a stage whose output is the folder ``out``."""
    return out.with_name(f"{out.name}.system.jsonl")


class SystemSampler:
    """Context manager that appends a sample every few seconds, and one at the end.

    Args:
        path: JSON lines: "time" in milliseconds, and each metric under MLflow's name for it.
        seconds: between samples.
    """

    def __init__(self, path: Path, seconds: float = SECONDS) -> None:
        self.path, self.seconds = path, seconds
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="system-sampler", daemon=True)

    def __enter__(self) -> SystemSampler:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._sampler.join()

    def _sample(self) -> None:
        monitors = [CPUMonitor(), *_gpus()]
        over = False
        while not over:
            over = self._over.wait(self.seconds)
            values = {"time": int(time.time() * 1000)}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= {f"system/{name}": float(value) for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            with self.path.open("a") as file:
                print(json.dumps(values), file=file)


def metrics(path: Path) -> Iterator[Metric]:
    """The samples for MLflow, numbered; nothing where there are none. A line that a kill cut short is passed over."""
    if not path.is_file():
        return
    step = 0
    for line in path.read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        for name, value in values.items():
            if name != "time":
                yield Metric(name, value, values["time"], step)
        step += 1


def _gpus() -> list[GPUMonitor]:
    """A monitor of all GPUs; none where no driver answers."""
    try:
        return [GPUMonitor()]
    except (ImportError, RuntimeError):
        return []
