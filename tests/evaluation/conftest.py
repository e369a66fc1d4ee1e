"""A small benchmark in ArtiBench's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.config import BenchmarkSet
from artiagent.images import encode

SIZE = 128


def bench_rows(count: int = 6) -> list[dict]:
    """Faulty and clean in turn; noise images, one box each on the faulty ones."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(count):
        faulty, missing = k % 2 == 0, k // 2 % 2
        rows.append(
            {
                "id": f"item-{k}",
                "image": encode(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)),
                "has_artifacts": faulty,
                "bboxes": [[16, 16, 48, 48]] if faulty else [],
                "fault": ("duplication", "omission")[missing] if faulty else "",
                "entity": "dog" if faulty else "",
                "part": "ear" if faulty else "",
                "label": "extra ear" if faulty else "",
                "explanation": ("The dog has an extra ear.", "The dog lacks an ear.")[missing] if faulty else "",
            }
        )
    return rows


@pytest.fixture
def benchmark(tmp_path: Path) -> BenchmarkSet:
    path = tmp_path / "bench" / "drawn.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(bench_rows()), path)
    return BenchmarkSet(name="drawn", path=str(path))
