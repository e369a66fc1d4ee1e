"""The rehearsal on the real classes at tiny sizes: every part measures, and one that fails leaves the others."""

import json

import pytest

from artiagent.mitigation import rehearsal
from artiagent.mitigation.rehearsal import Rehearsal, rehearse, table

TINY = {
    "sampler": "tiny-flux", "inpainter": "tiny-flux", "vlm": "nano", "size": 32, "steps": 2, "batches": (1, 2),
    "fill_steps": 2, "candidates": 2, "vlm_pixels": 4096, "depth": 0.1, "device": "cpu", "dtype": "float32",
}  # fmt: skip


def test_every_part_is_measured_and_told():
    said, kept = [], []

    def told(line: str, report: dict) -> None:
        said.append(line)
        kept.append(len(report["parts"]))

    report = rehearse(Rehearsal(**TINY), told)
    parts = report["parts"]
    assert kept == [1, 2, 3, 4]
    assert not [name for name, part in parts.items() if "error" in part]
    assert len(said) == 4 and all("done" in line for line in said)
    for batch in ("1", "2"):
        found = parts["sampler"]["batches"][batch]
        assert found["images_per_second"] == pytest.approx(1 / found["seconds_per_image"])
        assert found["call_seconds"] > 0 and found["decode_seconds_per_image"] > 0
    assert parts["vlm"]["image_tokens"] == 16 and parts["vlm"]["boxes_seconds"] > parts["vlm"]["verdict_seconds"]
    assert report["round_seconds"] > parts["inpainter"]["seconds"] + 3 * parts["vlm"]["verdict_seconds"]
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, default=str))
    text = table(report)
    for word in ("sampler tiny-flux", "batch 2", "images/s", "verdict_seconds", "one round of correction"):
        assert word in text


def test_a_part_that_fails_says_so_and_the_others_are_measured(monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA out of memory\nand more lines")

    monkeypatch.setattr(rehearsal, "_components", broken)
    report = rehearse(Rehearsal(**TINY))
    assert report["parts"]["sampler"] == {"error": "RuntimeError: CUDA out of memory"}
    assert report["parts"]["verifier"]["seconds_per_image"] > 0 and report["parts"]["vlm"]["caption_seconds"] > 0
    assert report["round_seconds"] is None
    assert "CUDA out of memory" in table(report)


def test_nothing_begins_after_the_limit():
    report = rehearse(Rehearsal(**TINY, limit=0.0))
    assert {part["error"] for part in report["parts"].values()} == {"not begun: 0 s were over"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sampler": "flux"}, "expected one of flux-dev"),
        ({"vlm": "x"}, "qwen2.5-vl-7b"),
        ({"depth": 0.0}, "more than 0"),
    ],
)
def test_what_cannot_be_built_is_named(given, said):
    with pytest.raises(ValueError, match=said):
        Rehearsal(**given)
