"""Drawn pairs: the oracle's data set and the filters' test, in the records of the pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artiagent.config import InstructionSection
from artiagent.curation.change import audit_change
from artiagent.images import decode
from artiagent.instruction.conversations import build_conversations
from artiagent.nano.drawn_pairs import NULL_EDITS, write_drawn_pairs, write_filter_test
from artiagent.records import Conversation, Pair
from artiagent.store import read_rows


def same(images: np.ndarray) -> np.ndarray:
    return images


def softened(images: np.ndarray) -> np.ndarray:
    """A round trip that is nearly exact, as an autoencoder's."""
    return (images // 2 * 2).astype(np.uint8)


def test_drawn_pairs_are_balanced_and_differ_only_where_they_say(tmp_path: Path) -> None:
    curated, scenes = write_drawn_pairs(tmp_path / "curated", tmp_path / "scenes", 8, encode=softened)
    assert (curated.rows, scenes.rows) == (8, 8)
    rows = list(read_rows(curated, Pair))
    tools = [row.record.artifacts[0].injection.tool for row in rows]
    assert sorted(tools) == sorted(["add", "remove", "distort", "fuse"] * 2)
    for row in rows:
        (artifact,) = row.record.artifacts
        clean, image = decode(row.images["clean"]), decode(row.images["artifact"])
        region = artifact.region.decode()
        assert (clean[~region] == image[~region]).all()
        assert audit_change(clean, image, artifact, [region]).inside > 0.01
        assert artifact.accepted
        assert artifact.label


def test_drawn_pairs_become_conversations(tmp_path: Path) -> None:
    curated, scenes = write_drawn_pairs(tmp_path / "curated", tmp_path / "scenes", 4, encode=same)
    section = InstructionSection(hard_negatives=False)
    made = build_conversations(section, curated, scenes, tmp_path / "conversations")
    turns = {turn.text for row in read_rows(made, Conversation, ()) for turn in row.record.turns}
    assert made.rows == 8
    assert {"Yes", "No"} <= turns


def test_half_of_the_filter_test_is_harmless(tmp_path: Path) -> None:
    pairs, _ = write_filter_test(tmp_path, 16, encode=softened)
    truths: dict[str, list[str]] = {}
    for row in read_rows(pairs, Pair):
        assert row.record.artifacts[0].accepted is None
        truths.setdefault(row.record.artifacts[0].injection.tool, []).append(row.record.prompt)
    assert all(sorted(set(found)) != ["fault"] and found.count("fault") == 2 for found in truths.values())
    assert {name for found in truths.values() for name in found} <= {"fault", *NULL_EDITS}


def test_no_more_pairs_than_seeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 1 to"):
        write_drawn_pairs(tmp_path / "curated", tmp_path / "scenes", 0, encode=same)
    with pytest.raises(ValueError, match="expected 2 to"):
        write_filter_test(tmp_path, 1, encode=same)
