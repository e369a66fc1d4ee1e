"""A small benchmark in ArtiBench's layout and a tiny random Qwen2.5-VL in the real on-disk format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import BenchmarkSet
from artiagent.images import encode
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.records import CheckpointRef

SIZE = 128


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    folder = tmp_path_factory.mktemp("weights") / "tiny-vl"
    tokenizer = build_tokenizer()
    save_model(folder, build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer))
    return checkpoint_ref("tiny", str(folder))


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
