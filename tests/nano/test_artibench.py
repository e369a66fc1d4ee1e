from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from artiagent import images
from artiagent.config import BenchmarkSet
from artiagent.evaluation.benchmarks import read_items
from artiagent.nano.artibench import bench_seeds, write_artibench
from artiagent.nano.faults import FAULTS, render_fault
from artiagent.nano.scenes import BENCH_SEEDS

N = 16


def coarse(batch: np.ndarray) -> np.ndarray:
    """An encode path that leaves a trace on every image: the last three bits go."""
    return batch & 0xF8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artibench(tmp_path_factory.mktemp("artibench"), N, encode=coarse)


def test_the_benchmark_reader_takes_it(folder: Path) -> None:
    items = [item for item, _ in read_items(BenchmarkSet(name="b", path=str(folder / "drawn.parquet")))]
    assert len(items) == N
    assert sum(item.faulty for item in items) == N // 2
    for item in items:
        assert item.localizable == item.faulty == bool(item.explanation) == bool(item.fault)
        if item.faulty:
            assert item.mask is not None
            assert not (item.mask.decode() & ~item.truth()).any()


def test_faults_are_balanced_and_order_is_mixed(folder: Path) -> None:
    items = [item for item, _ in read_items(BenchmarkSet(name="b", path=str(folder / "drawn.parquet")))]
    counts = Counter(item.fault for item in items if item.faulty)
    assert counts == dict.fromkeys(FAULTS, N // 2 // len(FAULTS))
    assert 0 < sum(item.faulty for item in items[: N // 2]) < N // 2


def test_both_classes_pass_through_encode(folder: Path) -> None:
    for item, data in read_items(BenchmarkSet(name="b", path=str(folder / "drawn.parquet")), limit=6):
        image = images.decode(data)
        assert not (image & 0x07).any()
        scene = render_fault(int(item.item_id.removeprefix("drawn-")))
        assert np.array_equal(image, coarse(scene.image if item.faulty else scene.clean_image))


def test_clean_items_come_from_other_seeds() -> None:
    taken: set[int] = set()
    for seed in range(3):
        for seeds in bench_seeds(200, seed):
            assert set(seeds) <= set(BENCH_SEEDS) and not taken & set(seeds)
            taken |= set(seeds)


def test_the_card_counts_what_is_there(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (card["n"], card["faulty"], card["clean"]) == (N, N // 2, N // 2)
    assert sum(card["faults"].values()) == sum(card["kinds"].values()) == N // 2


@pytest.mark.parametrize("wish", [{"n": 3}, {"n": 0}, {"n": 20_000}, {"seed": -1}, {"seed": 50}])
def test_impossible_wishes_are_refused(tmp_path: Path, wish: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        write_artibench(tmp_path, encode=coarse, **wish)


def test_an_encode_that_changes_the_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encode returned"):
        write_artibench(tmp_path, 2, encode=lambda batch: batch[:, ::2])
    assert not list(tmp_path.iterdir())
