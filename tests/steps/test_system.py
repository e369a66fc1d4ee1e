"""Samples of the machine beside a stage's output, as MLflow reads them."""

import time
from pathlib import Path

from steps.system import SystemSampler, metrics, samples_path


def test_samples_lie_beside_the_output_and_go_on_after_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "tuned" / "abc"
    path = samples_path(out)
    assert path.parent == out.parent and path.name == "abc.system.jsonl"
    assert list(metrics(path)) == []
    with SystemSampler(path, seconds=0.05):
        time.sleep(0.2)
    first = list(metrics(path))
    assert len({metric.step for metric in first}) >= 2
    names = {metric.key for metric in first}
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= names
    assert all(metric.value >= 0 for metric in first)
    with path.open("a") as file:
        file.write('{"time": 1, "system/cpu_ut\n')
    with SystemSampler(path, seconds=60):
        pass  # one at the end, however short
    again = list(metrics(path))
    assert again[: len(first)] == first and again[-1].step == first[-1].step + 1
    assert [m.timestamp for m in again] == sorted(m.timestamp for m in again)
