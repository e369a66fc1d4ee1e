"""The page is self-contained, escapes what models say, and shows strips by a rule that no answer can bend."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.cli import main
from artiagent.evaluation.benchmarks import BenchmarkItem, read_items, read_truth
from artiagent.leaderboard.board import assemble
from artiagent.leaderboard.collect import Truths, collect, read_predictions
from artiagent.records import Mask, Prediction
from artiagent.report.leaderboard import write_leaderboard
from artiagent.report.strips import CLEAN, cells_path, choose, gallery, stratum, strips
from tests.leaderboard.conftest import SECTION

EXTERNAL = re.compile(r"""(?:src|href|action)\s*=\s*["'](?!#|data:)|url\((?!#)|@import|<link|<iframe""")


class Balanced(HTMLParser):
    """Raises AssertionError where an element is closed that is not the open one."""

    VOID = ("meta", "br", "image", "use", "rect", "path", "link", "img", "input", "defs", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def page(benchmark, evaluated, tmp_path):
    folders = [evaluated(benchmark, "<i>good</i>", 12), evaluated(benchmark, "poor", 2)]
    sources, notes = collect(folders, tmp_path / "runs")
    truths = Truths([benchmark])
    board = assemble(sources, truths, SECTION, notes=notes)
    (table,) = board.tables
    items = read_truth(benchmark)
    answers = {
        row.model: read_predictions(row.predictions, "drawn", items, row.sha256, table.prompt_hash)
        for row in table.models
    }
    write_leaderboard(tmp_path / "out", board, {table.key: gallery(benchmark, answers, 6)})
    return (tmp_path / "out" / "leaderboard.html").read_text()


def test_page_is_self_contained_and_well_formed(page, tmp_path):
    assert not EXTERNAL.search(page)
    assert str(tmp_path) not in page
    parsed = Balanced()
    parsed.feed(page)
    assert parsed.open == []
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "leaderboard.html", "leaderboard.csv", "leaderboard.json"
    }  # fmt: skip
    assert "predictions" not in json.dumps(json.loads((tmp_path / "out" / "leaderboard.json").read_text()))


def test_page_escapes_names_labels_and_explanations(page):
    assert "<b>third</b>" not in page and "&lt;b&gt;third&lt;/b&gt;" in page
    assert "<i>good</i>" not in page and "&lt;ear&gt; extra" in page


def test_page_tells_quoted_from_measured(page):
    measured, reference = page.split('id="paper"')
    assert 'class="quoted"' not in measured and "Gemini" not in measured
    assert "Not comparable with drawn" in reference and reference.count("ArtiAgent 100K") == 2
    assert reference.count('title="IoU above F1') == 2 * 3  # IoU and F1 of three rows


def test_page_states_rule_and_tally(page):
    assert "6 of 24 images, drawn with seed 0: as many of every kind (duplication, omission, clean)" in page
    assert re.search(r"poor \d/6 and 12/24", page)
    assert page.count('<figure class="strip">') == 6
    assert page.count("data:image/png") == 6  # each picture once, the panels of the models refer to it
    assert all(f'href="#{name}"' in page for name in re.findall(r'<image id="(\w+)"', page))


items_of = st.lists(st.sampled_from(["duplication", "omission", "fusion", CLEAN]), min_size=1, max_size=40)


@given(items_of, st.integers(1, 12), st.integers(0, 3), st.randoms())
def test_choice_is_balanced_seeded_and_blind_to_order(kinds, count, seed, shuffler):
    items = [
        BenchmarkItem(item_id=f"i{k}", faulty=kind != CLEAN, width=8, height=8, fault="" if kind == CLEAN else kind)
        for k, kind in enumerate(kinds)
    ]
    chosen = choose(items, count, seed)
    assert len(chosen) == min(count, len(items)) == len({item.item_id for item in chosen})
    there = {kind: sum(stratum(item) == kind for item in items) for kind in kinds}
    taken = {kind: sum(stratum(item) == kind for item in chosen) for kind in there}
    full = max(taken.values())
    assert all(n >= min(full - 1, there[kind]) for kind, n in taken.items())
    shuffler.shuffle(items)
    assert choose(items, count, seed) == chosen


def test_outcomes_are_named_as_they_are(benchmark):
    found = dict((item.item_id, (item, image)) for item, image in read_items(benchmark))
    pairs = [found["item-00"], found["item-01"]]  # faulty, clean

    def outcome(verdict, status):
        rows = {
            item.item_id: Prediction(benchmark="drawn", item_id=item.item_id, model="m", model_sha256="x",
                                     prompt_hash="p", verdict=verdict, score=None, status=status)
            for item, _ in pairs
        }  # fmt: skip
        return [strip["answers"][0]["outcome"] for strip in strips(pairs, {"m": rows})]

    asked = {"detection": "ok"}
    assert outcome(True, asked) == ["hit", "false alarm"]
    assert outcome(False, asked) == ["miss", "rightly passed"]
    assert outcome(None, {"detection": "unparsable"}) == ["no readable answer"] * 2
    assert outcome(None, {"localization": "ok"}) == ["gives no verdict"] * 2


def test_a_heat_map_s_mask_is_drawn_where_it_is(benchmark):
    item, image = next(read_items(benchmark))
    mask = np.zeros((64, 64), bool)
    mask[8:24, 16:40] = True
    row = Prediction(benchmark="drawn", item_id=item.item_id, model="m", model_sha256="x", prompt_hash="p",
                     verdict=None, score=None, mask=Mask.encode(mask), status={"localization": "ok"})  # fmt: skip
    (strip,) = strips([(item, image)], {"m": {item.item_id: row}})
    answer = strip["answers"][0]
    assert answer["drawn"]["path"].startswith("M16 8h24v1h-24z") and answer["drawn"]["step"] == 1
    assert answer["iou"] == pytest.approx(16 * 24 / 32**2)  # inside the truth of 32 x 32


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=5))
def test_cells_path_covers_exactly_the_set_cells(rows):
    cells = np.array(rows)
    drawn = np.zeros_like(cells)
    for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", cells_path(cells)):
        assert not drawn[int(y), int(x) : int(x) + int(length)].any()
        drawn[int(y), int(x) : int(x) + int(length)] = True
    assert (drawn == cells).all()


def test_command_writes_prints_and_says_what_is_wrong(benchmark, evaluated, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ARTIAGENT_HOME", str(tmp_path / "home"))
    folder = evaluated(benchmark, "good", 12)
    places = ["--evaluation", str(folder), "--out", str(tmp_path / "board"), "--strips", "3"]
    settings = ["--set", f"inputs.benchmarks.0.path={benchmark.path}", "--set", "evaluation.resamples=100"]
    asked = ["leaderboard", "--no-track", *places, *settings]
    assert main(asked) == 0
    assert "good" in capsys.readouterr().out
    assert '<figure class="strip">' in (tmp_path / "board" / "leaderboard.html").read_text()
    assert main([*asked, "--sort", "beauty"]) == 2
    assert "--sort 'beauty': expected one of accuracy, macro_f1" in capsys.readouterr().err
    assert main(["leaderboard", "--no-track"]) == 2
    assert "'artiagent evaluate' makes one" in capsys.readouterr().err
