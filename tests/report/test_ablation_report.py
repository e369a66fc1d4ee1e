"""The page shows the same job in all rows, every file holds the same figures, and rows without pairs do no harm."""

import json
import re

import pytest

from artiagent.ablation.metrics import audit_of, count_pairs
from artiagent.ablation.rows import AblationRow
from artiagent.ablation.table import AblationTable, ReconstructionResult, RowResult
from artiagent.records import Interval
from artiagent.report.ablation import gallery, write_ablation
from tests.ablation.pairs import pair, row_data

NOTE = "fewer <steps>"
ROWS = (
    AblationRow(name="default", group="a"),
    AblationRow(name="steps-6", group="number of steps", set={"synthesis.steps": 6}, note=NOTE),
    AblationRow(name="other-plan", group="number of steps", set={"planning.seed": 1}),
    AblationRow(name="nothing", group="windows"),
)


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.1, high=value + 0.1, n=4)


def result(data, trained=None) -> RowResult:
    counts = count_pairs(data)
    verdict, figures = audit_of(data.curated)
    figures |= {"accepted": interval(0.5)} | ({"auroc": interval(0.8), "macro_f1": interval(0.7)} if trained else {})
    return RowResult(
        **data.row.model_dump(include={"name", "group", "set", "note"}), audit=verdict, seconds=6.0, trained_on=trained,
        planned=int(sum(counts.planned.values())), accepted=int(sum(counts.accepted.values())), figures=figures,
        differences={} if data.row.name == "default" else {"accepted": interval(-0.2)},
    )  # fmt: skip


@pytest.fixture
def rows(tmp_path):
    pairs = [pair(f"s{k}", v, "add", accepted=k != 2) for k in range(3) for v in (0, 1)]
    few = [p if p.source_id == "s1" else pair(p.source_id, p.variant, "add", accepted=False) for p in pairs]
    other = [
        pair(p.source_id, p.variant, "fuse", accepted=True).model_copy(update={"job_id": f"o{k}"})
        for k, p in enumerate(pairs)
    ]
    made = zip(ROWS, (pairs, few, other, []), (0, 50, 0, 0), strict=True)
    return [row_data(tmp_path / row.name, row, found, grey=grey) for row, found, grey in made]


@pytest.fixture
def table(rows):
    figures = {"psnr": interval(40), "distance": interval(0.1)}
    bound = ReconstructionResult(solver="autoencoder", steps=0, values=False, row_evaluations=0, figures=figures)
    timed = {**figures, "seconds": interval(1)}
    solved = [
        ReconstructionResult(solver=solver, steps=n, values=values, row_evaluations=2 * n, figures=timed)
        for solver in ("euler", "fireflow")
        for n in (4, 8)
        for values in (True, False)
    ]
    return AblationTable(
        name="ablation-1", reference="default", sources=3, images=8, provenance={"revision": "abc"},
        base={"auroc": interval(0.5), "macro_f1": interval(0.4)}, reconstruction=(bound, *solved),
        rows=tuple(result(data, 10 if data.row.name != "nothing" else None) for data in rows),
    )  # fmt: skip


def test_a_job_is_the_same_source_and_variant_in_every_row(table, rows):
    shown = gallery(table, rows, 2)
    assert len(shown) == 2 and len({source for source, _ in shown}) == 2  # of the reference: accepted, a source each
    for seen in shown.values():
        assert set(seen) == {"default", "steps-6", "other-plan"}
        assert seen["default"]["accepted"]
    accepted = {seen["steps-6"]["accepted"] for seen in shown.values()}
    assert accepted == {True, False}


def test_page_tables_and_charts(table, rows, tmp_path):
    write_ablation(tmp_path / "run", table, rows, 2)
    files = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert files == {
        "report.html", "ablation.json", "ablation.csv", "ablation.md", "charts/number-of-steps.svg",
        "charts/windows.svg", "charts/detection.svg", "charts/reconstruction.svg",
    }  # fmt: skip
    assert AblationTable.model_validate(json.loads((tmp_path / "run" / "ablation.json").read_text())) == table
    page = (tmp_path / "run" / "report.html").read_text()
    assert not re.search(r'(?:src|href)="https?:', page)
    assert str(tmp_path) not in page
    assert "fewer &lt;steps&gt;" in page and NOTE not in page
    assert "extra &lt;tail&gt;" in page
    assert page.count('<span class="no">rejected</span>') == 1
    assert "has no such job" in page  # the row without pairs
    assert page.count('href="#number-of-steps"') == 1 and 'id="number-of-steps"' in page
    assert page.count("<svg") > 2 * 2 * 3


def test_the_clean_side_is_shown_once_where_rows_share_it(table, rows, tmp_path):
    def befores(kept):
        named = [data for data in rows if data.row.name in kept]
        chosen = table.model_copy(update={"rows": tuple(row for row in table.rows if row.name in kept)})
        write_ablation(tmp_path / "-".join(kept), chosen, named, 2)
        return (tmp_path / "-".join(kept) / "report.html").read_text().count('aria-label="clean')

    assert befores(("default", "other-plan")) == 2  # equal twins: one picture a job
    assert befores(("default", "steps-6")) == 4  # its twins are of another grey
