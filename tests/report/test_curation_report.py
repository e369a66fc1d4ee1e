"""The page holds the set's own figures, shows what it says, survives empty sets, and grows with none."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from artiagent.config import CurationSection
from artiagent.curation.summary import made_by, summarise
from artiagent.images import decode, encode
from artiagent.records import AgentCall, Artifact, Box, DatasetRef, Injection, Mask, Pair, PatchMapping
from artiagent.report.curation import ACCEPTED, REJECTED, Group, examples, gather, write_curation_report
from artiagent.store import DatasetWriter, Row
from artiagent.vlm.calls import CALLS, write_calls

SECTION = CurationSection(audit_resamples=100, metric_note="ssim: LPIPS weights absent (hub: <offline>)")


BOX = Box(8, 8, 16, 16)


def artifact(tool: str = "add", reason: str | None = None, box: Box = BOX, **fields) -> Artifact:
    region = np.zeros((32, 32), dtype=bool)
    region[4:20, 4:20] = True
    mapping = PatchMapping(grid=(4, 4), targets=(5,), references=(6,))
    defaults = {"distance": 0.4, "change_inside": 0.1, "label": f"{tool} <tail>", "explanation": f"the {tool} is wrong"}
    return Artifact(
        injection=Injection(
            tool=tool, kernel="strip" if tool == "distort" else "", entity="dog", entity_id="e", part="tail", seed=1,
            mapping=mapping,
        ),
        box=box, region=Mask.encode(region), accepted=reason is None and tool != "benign", reason=reason,
        **{**defaults, **fields},
    )  # fmt: skip


def row(index: int, *artifacts: Artifact, side: int = 32, **fields) -> Row[Pair]:
    record = Pair(**{
        "job_id": f"j{index:03d}", "source_id": f"s{index}", "group": "scenes", "variant": 0, "width": side,
        "height": side, "prompt": "", "artifacts": artifacts, "backbone": "nano", "backbone_sha256": "x",
        "sampling": {}, "licence": "CC0-1.0", "licences": {"nano-flux": "Apache-2.0"}, **fields,
    })  # fmt: skip
    clean = np.full((side, side, 3), 60, np.uint8)
    image = clean.copy()
    image[artifacts[0].box.slices] = 100
    return Row(record.job_id, record, {"clean": encode(clean), "artifact": encode(image)})


def curated(folder: Path, rows: list[Row[Pair]]) -> DatasetRef:
    writer: DatasetWriter[Pair] = DatasetWriter(folder, "curated", ("clean", "artifact"))
    writer.write("all", rows)
    return writer.finish()


@pytest.fixture
def mixed(tmp_path: Path) -> DatasetRef:
    agents = {"judge": "judge_add@1#abc123 gpt-x"}
    return curated(tmp_path / "set", [
        row(0, artifact(), explanation="Two tails.", agents=agents),
        row(1, artifact(reason="judge_rejected", detail="judge: no, one <tail>"), agents=agents),
        row(2, artifact("distort"), artifact("fuse", "too_damaged"), pasted_back=1),
        row(3, artifact("distort", "too_similar", distance=0.05), artifact("fuse", "too_similar")),
        row(4, artifact("benign", label="clean", change_inside=0.0)),
        row(5, artifact("remove", change_outside=0.001), scored=False, group="photos", licence="CC-BY-4.0"),
    ])  # fmt: skip


def page_of(ref: DatasetRef) -> str:
    return (Path(summarise(SECTION, ref, made_by(SECTION)).uri) / "report.html").read_text()


def test_the_page_says_who_was_kept_and_why_not(mixed: DatasetRef) -> None:
    write_calls(Path(mixed.uri) / CALLS, [
        AgentCall(key="j000:0", task="judge", prompt="judge_add@1", prompt_hash="abc123", model="gpt-x", status=status,
                  tokens_in=1000, cost=0.5)
        for status in ("ok", "repaired", "timeout", "http 500", "http 500")
    ])  # fmt: skip
    page = page_of(mixed)
    assert "2/4" in page and "2/6" in page  # pairs, artifacts
    assert re.search(r"judge</td><td class=\"n\">5</td><td class=\"n\">2</td>\s*<td class=\"n\">1</td>", page)
    assert "http 500 2, timeout 1" in page and "5000" in page and "2.5" in page
    assert "ssim: LPIPS weights absent (hub: &lt;offline&gt;)" in page
    assert "judge: no, one &lt;tail&gt;" in page and "<tail>" not in page
    assert "judge_add@1#abc123 gpt-x" in page and "Two tails." in page
    assert re.search(r"photos</td><td>CC-BY-4.0</td><td class=\"n\">1</td><td class=\"n\">1</td>", page)
    assert re.search(r"nano-flux</td><td>Apache-2.0</td><td class=\"n\">6</td>", page)
    assert not re.search(r'(?:src|href)="https?:', page)
    assert str(Path(mixed.uri).parent) not in page


def test_the_page_is_a_function_of_the_set(mixed: DatasetRef, tmp_path: Path) -> None:
    page = page_of(mixed)
    assert write_curation_report(mixed, tmp_path / "again").read_text() == page


def test_what_was_pasted_back_is_not_shown(mixed: DatasetRef) -> None:
    groups = set(gather(mixed).chosen)
    assert Group(True, ACCEPTED, "distort", "") in groups
    assert Group(True, REJECTED, "fuse", "too_damaged") not in groups
    assert Group(True, REJECTED, "fuse", "too_similar") in groups  # its pair holds nothing that was kept
    assert Group(False, ACCEPTED, "remove", "") in groups
    assert not any(group.tool == "benign" for group in groups)


def test_histograms_count_scored_artifacts_by_verdict(mixed: DatasetRef) -> None:
    found = gather(mixed)
    assert {k[1:]: v.sum() for k, v in found.histograms.items() if k[0] == "distance"} == {
        ("add", ACCEPTED): 1, ("add", REJECTED): 1, ("distort", ACCEPTED): 1, ("distort", REJECTED): 1,
        ("fuse", REJECTED): 2, ("benign", ACCEPTED): 1,
    }  # fmt: skip
    assert found.histograms["distance", "distort", REJECTED].argmax() == 2
    assert (found.untouched, found.artifacts) == (7, 8)


def test_examples_are_few_of_different_sources_and_do_not_depend_on_order(tmp_path: Path) -> None:
    rows = [row(k, artifact(), source_id=f"s{k // 4}") for k in range(80)]
    found = [gather(curated(tmp_path / name, order)).chosen for name, order in (("a", rows), ("b", rows[::-1]))]
    assert found[0] == found[1]
    (kept,) = found[0].values()
    assert len(kept) == 6 == len({source for _, source, _, _ in kept})


def test_large_images_are_shown_around_the_artifact(tmp_path: Path) -> None:
    box = Box(700, 300, 760, 380)
    ref = curated(tmp_path / "large", [row(0, artifact(box=box), side=1024)])
    ((e,),) = examples(ref, gather(ref).chosen).values()
    assert max(e["width"], e["height"]) <= 256
    from base64 import b64decode

    image = decode(b64decode(e["artifact"].split(",")[1])).astype(int)
    ((x, y, w, h),) = e["boxes"]
    assert image.shape[:2] == (e["height"], e["width"])
    assert abs(image[y + 2 : y + h - 2, x + 2 : x + w - 2] - 100).max() < 8  # the box lies on the artifact
    assert abs(image[: y - 3] - 60).max() < 8 and w > 50


@pytest.mark.parametrize("rows", [[], [row(0, artifact(reason="vlm_error"))], [row(0, artifact(), scored=False)]])
def test_sets_without_anything_accepted_have_a_page_too(tmp_path: Path, rows: list[Row[Pair]]) -> None:
    page = page_of(curated(tmp_path / "set", rows))
    assert page.count("none accepted") == 4 and "insufficient n" in page


def test_summary_and_funnel(mixed: DatasetRef) -> None:
    ref = summarise(SECTION, mixed, made_by(SECTION))
    assert (ref.summary["accepted"], ref.summary["tried"], ref.summary["fuse_tried"]) == (2, 4, 2)
    funnel = json.loads((Path(ref.uri) / "funnel.json").read_text())
    assert funnel["metric_note"] == SECTION.metric_note and funnel["limits"]["window"] == [0.3, 0.8]
    assert summarise(SECTION, mixed, {}) == ref  # nothing is made twice
