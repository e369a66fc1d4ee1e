"""nano-parser: targets, peaks, training that resumes; and what it says about pairs."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from artiagent.nano.augment import Chances, augmented_view
from artiagent.nano.drawn_pairs import write_drawn_pairs
from artiagent.nano.parser import (
    STRIDE,
    FoundPart,
    Parsed,
    Parser,
    _read,
    classes,
    part_names,
    targets_of,
    train_parser,
)
from artiagent.nano.scenes import KINDS, TRAIN_SEEDS, render_scene
from artiagent.nano.truth import precision, seen
from artiagent.nano.views import view_of
from artiagent.records import Artifact, Injection, Mask, Pair, PatchMapping
from artiagent.store import read_rows


def artifact(tool: str, part: str, cells: list[int]) -> Artifact:
    mapping = PatchMapping(grid=(4, 4), targets=tuple(cells), references=tuple(cells))
    injection = Injection(tool=tool, entity="dog", entity_id="0", part=part, seed=0, mapping=mapping)
    return Artifact(injection=injection, box=(0, 0, 8, 8), region=Mask.encode(np.ones((32, 32), bool)))


def parsed(*middles: tuple[str, float, float], rows: slice = slice(0, 0), name: str = "leg") -> Parsed:
    labels = np.zeros((32, 32), np.uint8)
    labels[rows, :8] = classes().index(name)
    return Parsed(labels, tuple(FoundPart(part, x, y, 0.9) for part, x, y in middles))


def test_targets_mark_every_visible_part_once() -> None:
    view = view_of(render_scene(TRAIN_SEEDS[3]))
    targets = targets_of([view])
    visible = [part for part in view.parts if part.visible]
    assert int((targets.centres == 1).sum()) == len({(p.name, p.box) for p in visible})
    number = classes().index(visible[0].name)
    rows, columns = (axis // STRIDE for axis in np.nonzero(visible[0].mask))
    assert (targets.labels[0].numpy()[rows, columns] == number).mean() > 0.6
    assert targets.labels.max() < len(classes())


def test_a_pasted_part_is_counted_and_an_erased_one_is_not() -> None:
    scene = render_scene(TRAIN_SEEDS[5])
    plain = int((targets_of([view_of(scene)]).centres == 1).sum())
    counts = {
        name: [
            int((targets_of([augmented_view(scene, random.Random(seed), chances)]).centres == 1).sum())
            for seed in range(12)
        ]
        for name, chances in (("paste", Chances(paste=1.0)), ("erase", Chances(erase=1.0)))
    }
    assert max(counts["paste"]) == plain + 1
    assert min(counts["erase"]) < plain


def test_peaks_become_parts_and_classes_become_pixels() -> None:
    labels = torch.zeros(8, 8, dtype=torch.long)
    labels[2:4] = classes().index(KINDS[0])
    scores = torch.zeros(len(part_names()), 8, 8)
    scores[1, 2, 3], scores[1, 2, 4], scores[1, 6, 6], scores[2, 0, 0] = 0.9, 0.8, 0.5, 0.1
    read = _read(labels, scores)
    assert [(part.name, part.x, part.y) for part in read.parts] == [
        (part_names()[1], 7.0, 5.0),
        (part_names()[1], 13.0, 13.0),
    ]
    assert read.counts() == {part_names()[1]: 2}
    assert read.mask(KINDS[0]).sum() == 2 * 8 * STRIDE**2


@pytest.mark.parametrize(
    ("tool", "before", "after", "truth"),
    [
        ("add", parsed(), parsed(("leg", 4, 4)), True),
        ("add", parsed(("leg", 4, 4)), parsed(("leg", 4, 4)), False),
        ("add", parsed(), parsed(("leg", 30, 30)), False),  # far from the targets
        ("add", parsed(), parsed(rows=slice(0, 8)), True),
        ("remove", parsed(("leg", 4, 4)), parsed(), True),
        ("remove", parsed(("leg", 4, 4)), parsed(("leg", 4, 5)), False),  # there was no pixel to lose
        ("remove", parsed(("leg", 4, 4), rows=slice(0, 8)), parsed(("leg", 4, 4), rows=slice(0, 7)), False),
        ("distort", parsed(("leg", 4, 4), rows=slice(0, 8)), parsed(("leg", 4, 4), rows=slice(0, 3)), True),
        ("distort", parsed(("leg", 4, 4), rows=slice(0, 8)), parsed(("leg", 4, 4), rows=slice(0, 7)), False),
        ("fuse", parsed(), parsed(rows=slice(0, 8)), True),
        ("fuse", parsed(rows=slice(0, 8)), parsed(rows=slice(0, 8)), False),
    ],
)
def test_what_the_parser_must_find(tool: str, before: Parsed, after: Parsed, truth: bool) -> None:
    assert seen(artifact(tool, "leg", [0]), before, after) is truth


def test_a_part_unknown_to_the_parser_is_left_out() -> None:
    assert seen(artifact("add", "fairing", [0]), parsed(), parsed()) is None


def test_training_resumes_and_the_folder_parses(tmp_path: Path) -> None:
    settings = {"minutes": 60.0, "batch": 2, "scenes": 4, "held_out": 2}
    train_parser(tmp_path / "parser", tmp_path / "work", steps=1, **settings)
    report = train_parser(tmp_path / "parser", tmp_path / "work", steps=2, **settings)
    assert report["steps"] == 2
    saved = json.loads((tmp_path / "parser" / "training.json").read_text())
    assert set(saved["held_out"]) == {"part_iou", "body_iou", "count_exact", "count_exact_changed", "scenes"}
    images = [np.zeros((64, 64, 3), np.uint8), np.zeros((128, 96, 3), np.uint8)]
    assert [one.labels.shape for one in Parser(tmp_path / "parser").parse(images)] == [(64, 64), (128, 96)]
    with pytest.raises(FileNotFoundError, match="no nano-parser here"):
        Parser(tmp_path)


def test_precision_counts_every_artifact(tmp_path: Path) -> None:
    curated, _ = write_drawn_pairs(tmp_path / "curated", tmp_path / "scenes", 8, encode=lambda images: images)

    class Agrees:
        """Sees a leg more or less wherever it looks, by turns."""

        def parse(self, images: list[np.ndarray]) -> list[Parsed]:
            return [Parsed(np.full(image.shape[:2], int(image.mean()) % 7, np.uint8), ()) for image in images]

    table = precision(Agrees(), curated)
    assert table["accepted"]["all"].n == 8
    assert sum(table["accepted"][tool].n for tool in ("add", "remove", "distort", "fuse")) == 8
    assert all(row.record.explanation for row in read_rows(curated, Pair, ()))
