"""The stage and the command: resume, what cannot be read, generators side by side, and the page."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import AuditedPlace, AuditSection, BenchmarkSet, EvaluationSection
from artiagent.images import encode
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.instruction.prompts import LOCATE_ARTIFACTS
from artiagent.mitigation.audit.cli import UNREAD, _place, add_commands
from artiagent.mitigation.audit.records import AuditReport
from artiagent.mitigation.audit.sources import place_refs
from artiagent.mitigation.audit.stage import IMAGES_OF, REPORT, audit
from artiagent.mitigation.audit.tables import IMAGES, text_table
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene
from artiagent.records import CheckpointRef
from artiagent.report.audit import PAGE
from artiagent.vlm.prompt import Prompt
from artiagent.vlm.protocol import Answer

SECTION = AuditSection(resamples=500, batch=3, thresholds=(0.25, 0.75), threads=1)
EVALUATION = EvaluationSection(threads=1, resamples=100)
VLM = CheckpointRef(name="told", uri="", sha256="0" * 64)
PARSER = checkpoint_ref("parser", "data/weights/nano-parser")


class Told:
    """An `Asker`: an image is faulty by the red of its first pixel. After ``patience`` verdicts it fails."""

    def __init__(self, patience: int = 1000) -> None:
        self.asked, self.patience = 0, patience

    def space(self, width: int, height: int) -> CoordinateSpace:
        return CoordinateSpace(width, height, width, height)

    def ask(
        self, images: Sequence[np.ndarray], prompts: Sequence[Prompt], most: int, yes_no: bool = False
    ) -> list[Answer]:
        if not yes_no:
            boxes, words = "[[8,8,40,60]]", "The dog in this image has an extra tail. <b>Really</b>."
            return [Answer(boxes if prompt.name == LOCATE_ARTIFACTS else words) for prompt in prompts]
        self.asked += len(images)
        if self.asked > self.patience:
            raise KeyboardInterrupt
        return [Answer("", probability=image[0, 0, 0] / 255) for image in images]


@pytest.fixture
def made(tmp_path: Path) -> list[CheckpointRef]:
    """Two folders of seven scenes each; in the first four are called faulty, in the second one. One file is broken."""
    for name, faulty in (("bad", 4), ("good", 1)):
        (folder := tmp_path / name).mkdir()
        lines = ["file_name,prompt"]
        for k in range(7):
            scene = render_scene(TRAIN_SEEDS[1_790_000_000 + k], kinds=["dog"], entities=1)
            pixels = scene.image.copy()
            pixels[0, 0, 0] = 250 if k < faulty else 5
            (folder / f"{k}.png").write_bytes(encode(pixels))
            lines.append(f'{k}.png,"{scene.caption}"')
        (folder / "prompts.csv").write_text("\n".join(lines))
    (tmp_path / "bad" / "6.png").write_bytes(b"broken")
    return place_refs([AuditedPlace(location=str(tmp_path / name)) for name in ("bad", "good")])


def run(refs: list[CheckpointRef], out: Path, asker: Told, parser: CheckpointRef | None = None) -> AuditReport:
    audit(SECTION, EVALUATION, (), refs, VLM, parser, out, asker=asker)
    return AuditReport.model_validate_json((out / REPORT).read_bytes())


def test_generators_side_by_side(made: list[CheckpointRef], tmp_path: Path) -> None:
    report = run(made, tmp_path / "out", Told(), PARSER)
    bad, good = report.generators["bad"], report.generators["good"]
    assert (bad.images, bad.unread, good.images) == (6, 1, 7)
    assert (bad.rate.value, good.rate.value) == (pytest.approx(4 / 6), pytest.approx(1 / 7))
    assert (
        bad.by_fault["duplication"].value == bad.by_part["tail"].value == bad.by_entity["dog"].value == bad.rate.value
    )
    assert bad.parts.n == 6 and bad.parts.value <= 0.5  # the scenes are clean, whatever the VLM was told to say
    contrast = report.contrasts["bad - good"]
    assert (contrast.paired, contrast.prompts) == (True, 6)
    assert contrast.rate.value == pytest.approx(3 / 6)
    assert report.detector == {} and bad.corrected == {}
    table = pq.read_table(tmp_path / "out" / IMAGES).to_pylist()
    assert len(table) == 14 and table[0]["boxes"] == [[8, 8, 40, 60]]
    assert [row["image"] for row in table if row["verdict"] == "unread"] == ["6.png"]
    assert table[0]["data"] == (tmp_path / "bad" / "0.png").read_bytes()
    assert "1 not read" in text_table(report)


def test_the_page_holds_what_a_person_asks_for(made: list[CheckpointRef], tmp_path: Path) -> None:
    run(made, tmp_path / "out", Told(), PARSER)
    page = (tmp_path / "out" / PAGE).read_text()
    assert page.count("<svg") >= 2 + 6 + 1 + 6  # charts; worst and random ones of both
    for text in ("bad - good", "duplication", "No benchmark says how much", "At other thresholds", "&lt;b&gt;Really"):
        assert text in page
    assert "<b>Really" not in page and not re.search(r"(?:src|href)=\"(?!data:|#)", page)  # self-contained


def test_a_killed_audit_goes_on_and_another_generator_costs_only_itself(
    made: list[CheckpointRef], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(made, out, Told(patience=8))  # two batches of the first generator, of five and one images
    assert not (out / REPORT).exists()
    resumed, again = Told(), Told()
    run(made[:1], out, resumed)
    assert resumed.asked == 0
    both = run(made, out, again)
    assert again.asked == 7
    whole = run(made, tmp_path / "whole", Told())
    assert both == whole
    untouched = Told()
    assert run(made, out, untouched) == whole and untouched.asked == 0


def test_the_detector_is_measured_on_a_benchmark(made: list[CheckpointRef], tmp_path: Path, tiny_vlm) -> None:
    drawn, small = (BenchmarkSet(name=n, path="data/artibench-nano/drawn.parquet") for n in ("drawn", "small"))
    evaluation = EVALUATION.model_copy(update={"limit": 60})
    audit(SECTION, evaluation, (), made[1:], tiny_vlm, None, tmp_path / "out", [drawn])
    report = AuditReport.model_validate_json((tmp_path / "out" / REPORT).read_bytes())
    assert report.detector["drawn"].n == 60
    few = EVALUATION.model_copy(update={"limit": 20})
    audit(SECTION, few, (), made[1:], tiny_vlm, None, tmp_path / "out", [small])
    assert json.loads((tmp_path / "out" / REPORT).read_bytes())["detector"] == {}
    assert len(list((tmp_path / "out" / IMAGES_OF).iterdir())) == 1


def command(*arguments: str) -> argparse.Namespace:
    """What the command line makes of the arguments."""
    top = argparse.ArgumentParser()

    def add(commands, name, text, call):
        made = commands.add_parser(name, help=text)
        made.set_defaults(command=call, debug=False)
        return made

    def config_options(made):
        made.add_argument("--config", default="configs/nano.yaml")
        made.add_argument("--set", action="append", default=[])

    add_commands(top.add_subparsers(), add, config_options)
    return top.parse_args(["audit", *arguments])


def test_the_command_without_pipelines(
    made: list[CheckpointRef], tmp_path: Path, tiny_vlm, capsys: pytest.CaptureFixture
) -> None:
    settings = ("audit.resamples=200", "evaluation.limit=4", "evaluation.threads=1", "inputs.parser=null")
    options = [word for setting in settings for word in ("--set", setting)]
    places = [word for ref in made for word in ("--generator", f"my-{ref.name}={ref.uri}")]
    given = command(*places, *options, "--model", tiny_vlm.uri, "--out", str(tmp_path / "out"))
    assert given.command(given) == UNREAD
    printed = capsys.readouterr().out
    assert "my-bad - my-good" in printed and printed.count(str(tmp_path / "out")) == 3


def test_a_name_before_the_place() -> None:
    assert _place("mj=renders/a") == {"name": "mj", "location": "renders/a"}
    assert _place("renders/a=b") == {"location": "renders/a=b"}
    with pytest.raises(ValueError, match="expected PLACE or NAME=PLACE"):
        _place("mj=")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generator", "nowhere/at/all"], "nowhere/at/all: no such file or folder"),
        (["--prompts", "nowhere.txt", "--generator", "data/weights/nano-flux"], "nowhere.txt: no such file"),
        (["--images", "0"], "images"),
    ],
)
def test_wrong_options_are_named(options: list[str], message: str, tmp_path: Path) -> None:
    given = command(*options, "--out", str(tmp_path / "out"))
    with pytest.raises(ValueError, match=message):
        given.command(given)
    assert not (tmp_path / "out").exists()
