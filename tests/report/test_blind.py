"""Blind sheets: balanced, unlabelled, scored against a key of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from artiagent.images import decode
from artiagent.nano.drawn_pairs import write_drawn_pairs
from artiagent.report.blind import KEY, score_verdicts, write_sheets


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_drawn_pairs(folder / "curated", folder / "scenes", 12, encode=lambda images: images)
    return folder / "curated"


def test_sheets_hold_every_type_and_the_key_both_sides(curated: Path, tmp_path: Path) -> None:
    sheets = write_sheets(curated, tmp_path, per_tool=3, seed=1)
    key = json.loads((tmp_path / KEY).read_text())
    assert len(sheets) == 2
    assert sorted(truth["type"] for truth in key.values()) == sorted(
        ["duplication", "omission", "distortion", "fusion"] * 3
    )
    assert {truth["side"] for truth in key.values()} == {"left", "right"}
    assert decode(sheets[0].read_bytes()).ndim == 3
    again = write_sheets(curated, tmp_path / "again", per_tool=3, seed=1)
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in sheets]


def test_verdicts_are_scored_per_type(curated: Path, tmp_path: Path) -> None:
    write_sheets(curated, tmp_path, per_tool=1)
    key = json.loads((tmp_path / KEY).read_text())
    verdicts = {number: {"side": truth["side"], "type": "omission"} for number, truth in key.items()}
    scored = score_verdicts(key, verdicts)
    assert scored["all"] == {"n": 4, "side": 4, "type": 1}
    assert scored["fusion"] == {"n": 1, "side": 1, "type": 0}
    with pytest.raises(ValueError, match="no verdict on pair"):
        score_verdicts(key, {})


def test_too_few_pairs_are_named(curated: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 are wanted"):
        write_sheets(curated, tmp_path)
