import shutil
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset

from artiagent.dataset.card import front_matter, write_card
from artiagent.dataset.facts import describe
from artiagent.store import open_dataset


@pytest.fixture
def mine(curated, tmp_path):
    """A copy that tests may write into."""
    shutil.copytree(curated.uri, tmp_path / "mine")
    return curated.model_copy(update={"uri": str(tmp_path / "mine")})


def test_the_card_lies_beside_the_shards_and_loads_them(mine, tmp_path, monkeypatch):
    path = write_card(mine, Path(mine.uri))
    assert open_dataset(Path(mine.uri)).digest == mine.digest
    front, text = path.read_text().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license"] == "other"  # two licences
    loaded = load_dataset(mine.uri, split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.num_rows == mine.rows
    assert loaded[0]["clean"].size == (48, 48)  # decoded, and calls.parquet is not taken for data
    assert loaded.column_names == ["key", "record", "clean", "artifact"]
    for expected in (
        mine.digest, "| add | scored | 4 | 3 | too_similar 1 |", "| photos | 5 | 4 | 1 |",
        "| CC-BY-2.0 (vultilion) | 5 | yes |", "| generator: nano-flux | Apache-2.0 | 25 | yes |",
        "solver fireflow; steps 10.", "| judge: judge_add@1#abc123 nano-vl | 25 |", "Verdict: **insufficient n**",
        "| edge, benign | 0.7 | 0.64 to 0.77 | 52 |", "| presence | 2 | 0 | 0 |",
        "Which run made it is not known here.", "No stated licence forbids",
    ):  # fmt: skip
        assert expected in text, expected
    assert mine.uri not in text  # nothing of this machine


def test_the_same_set_has_the_same_card_and_says_who_made_it(mine, tmp_path):
    known = mine.model_copy(update={"summary": {"lineage.run": "nano-1a2b", "lineage.weights": "vlm:abc clip:def"}})
    first, second = (write_card(known, tmp_path / name).read_text() for name in ("one", "two"))
    assert first == second
    assert "- run: `nano-1a2b`" in first
    assert "- weights: `clip def`" in first and f"- weights: `generator {'f' * 64}`" in first


def test_restricted_and_unknown_material_is_named(make, pair, tmp_path):
    terms = ("CC BY-NC-ND 2.0", "unknown", "a | b\nlicence")
    ref = make(tmp_path / "a", [pair(n, licence=text) for n, text in enumerate(terms)])
    plain = write_card(ref, tmp_path / "plain").read_text()
    assert "| CC BY-NC-ND 2.0 | 1 | **no**; **no altered copies** |" in plain
    assert "**Restricted material**: 1 pairs CC BY-NC-ND 2.0 (images)." in plain
    assert "Not acknowledged" in plain and "**Not stated**" in plain
    assert r"| a \| b licence | 1 | not stated |" in plain  # no cell breaks the table
    assert "Acknowledged by whoever" in write_card(ref, tmp_path / "told", acknowledged=True).read_text()


def test_front_matter_names_a_single_free_licence(make, pair, tmp_path):
    def licence(name, text):
        return front_matter(describe(make(tmp_path / name, [pair(0, licence=text)])))["license"]

    assert licence("a", "CC0-1.0") == "cc0-1.0"
    assert licence("b", "CC-BY-NC-4.0") == "other"
    assert licence("c", "mine") == "other"


def test_without_audit_and_calls(make, pair, tmp_path):
    ref = make(tmp_path / "a", [pair(0)])
    for name in ("audit.json", "funnel.json", "calls.parquet"):
        (tmp_path / "a" / name).unlink()
    text = write_card(ref, tmp_path).read_text()
    assert "No audit lies beside this set." in text and "tokens in" not in text
