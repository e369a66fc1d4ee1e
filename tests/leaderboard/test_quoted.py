"""The paper's table is complete, says what is not comparable, and stands beside the published benchmarks only."""

from __future__ import annotations

import pytest

from artiagent.leaderboard.quoted import paper_table

# (model, benchmark) -> figures, transcribed from the specification a second time, column by column
DETECTION = {
    "GPT-4o": (0.619, 0.601), "GPT-5": (0.599, 0.577), "Gemini-2.5-Pro": (0.582, 0.575),
    "Qwen2.5-VL-7B": (0.501, 0.336), "Qwen2.5-VL-7B + ArtiAgent 100K": (0.627, 0.627),
    "InternVL3.5-8B": (0.498, 0.357), "InternVL3.5-8B + ArtiAgent 100K": (0.630, 0.620), "ArtiAgent 1K": (0.555, 0.550),
}  # fmt: skip
MODELS = (
    "PAL", "GPT-4o", "GPT-5", "Gemini-2.5-Pro", "DiffDoctor", "LEGION", "Qwen2.5-VL-7B",
    "Qwen2.5-VL-7B + ArtiAgent 100K", "InternVL3.5-8B", "InternVL3.5-8B + ArtiAgent 100K", "ArtiAgent 1K",
)  # fmt: skip
LOCALIZATION = {
    "RichHF-18K": ".079/.028 .086/.040 .126/.146 .061/.091 .077/.139 .067/.112 .075/.028 .119/.198 .013/.022 .100/.170",
    "LOKI": ".021/.037 .037/.056 .089/.141 .109/.169 .175/.274 .100/.158 .052/.068 .129/.198 .015/.025 .126/.196",
    "SynthScars": ".035/.053 .032/.052 .117/.185 .064/.101 .083/.136 .106/.152 .013/.018 .137/.214 .019/.033 .140/.217",
    "ArtiBench": ".040/.066 .049/.084 .061/.099 .095/.147 .081/.137 .062/.099 .010/.014 .111/.168 .010/.015 .119/.176 "
    ".074/.121",
}
EXPLANATION = {
    "LOKI": "- .107/.266 .121/.382 .097/.358 - .133/.314 .106/.267 .169/.454 .081/.189 .137/.401",
    "SynthScars": "- .125/.404 .120/.461 .103/.474 - .247/.589 .115/.362 .196/.578 .050/.180 .179/.513",
    "ArtiBench": "- .143/.433 .145/.434 .159/.420 - .143/.332 .117/.263 .233/.643 .126/.256 .226/.625 .222/.606",
}


def figures(benchmark: str, metrics: tuple[str, str]) -> dict[str, tuple[float, float]]:
    rows = {row.model: row.scores.get(benchmark, {}) for row in paper_table().rows}
    return {model: tuple(values[m] for m in metrics) for model, values in rows.items() if metrics[0] in values}


def expected(text: str) -> dict[str, tuple[float, float]]:
    cells = zip(MODELS, text.split(), strict=False)
    return {model: tuple(map(float, cell.split("/"))) for model, cell in cells if cell != "-"}


def test_every_column_of_the_specification_is_there():
    assert tuple(row.model for row in paper_table().rows) == MODELS
    assert figures("ArtiBench", ("accuracy", "macro_f1")) == DETECTION
    for benchmark, text in LOCALIZATION.items():
        assert figures(benchmark, ("iou", "pixel_f1")) == expected(text)
    for benchmark, text in EXPLANATION.items():
        assert figures(benchmark, ("rouge_l", "css")) == expected(text)
    known = sum(len(values) for row in paper_table().rows for values in row.scores.values())
    cells = [*LOCALIZATION.values(), *EXPLANATION.values()]
    assert known == 2 * (len(DETECTION) + sum(len(expected(text)) for text in cells))


def test_rows_that_count_empty_answers_as_one_are_marked():
    marked = {(row.model, name) for row in paper_table().rows for name in row.scores if not row.comparable(name)}
    assert marked == {(model, "RichHF-18K") for model in ("PAL", "GPT-4o", "Qwen2.5-VL-7B")}
    legion = next(row for row in paper_table().rows if row.model == "LEGION")
    assert any("training split" in remark for remark in legion.remarks("SynthScars"))
    assert legion.remarks("LOKI") == ()


@pytest.mark.parametrize(
    ("layout", "images", "faulty", "names_faults", "name"),
    [
        ("artibench", 1000, 500, False, "ArtiBench"), ("synthscars", 1000, 1000, False, "SynthScars"),
        ("loki", 229, 229, False, "LOKI"), ("richhf", 955, 900, False, "RichHF-18K"),
        ("artibench", 600, 300, True, ""), ("artibench", 155, 143, True, ""),  # ArtiBench-nano
        ("artibench", 1000, 500, True, ""),  # another set of the same size in ArtiBench's layout
        ("synthscars", 200, 200, False, ""),  # a part
    ],
)  # fmt: skip
def test_only_published_benchmarks_have_quoted_rows(layout, images, faulty, names_faults, name):
    assert paper_table().published_as(layout, images, faulty, names_faults) == name
