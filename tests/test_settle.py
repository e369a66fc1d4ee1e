"""What the machine decides stands in the configuration before a run: digests of weights, the metric, and why."""

from pathlib import Path

import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import Config, CurationSection, DetectionSection, EvaluationSection, PerceptionSection, VlmSection
from artiagent.settle import settle


def folder(root: Path, name: str, content: str) -> str:
    (root / name).mkdir(exist_ok=True)
    (root / name / "config.json").write_text("{}")
    (root / name / "weights.txt").write_text(content)
    return str(root / name)


def test_the_default_needs_nothing() -> None:
    assert settle(Config()) == (Config(), [])


def test_weights_enter_by_their_digest(tmp_path: Path) -> None:
    places = {name: folder(tmp_path, name, name) for name in ("detector", "segmenter", "vlm")}
    detection = DetectionSection(boxes="vlm", detector=places["detector"], segmenter=places["segmenter"])
    vlm = VlmSection(model=places["vlm"])
    asked = Config(
        perception=PerceptionSection(grounding="grounded_sam", detection=detection, vocabulary="vlm", vlm=vlm),
        curation=CurationSection(vlm=vlm),
    )
    settled, _ = settle(asked)
    found = settled.perception
    assert found.detection.detector_sha256 == checkpoint_ref("d", places["detector"]).sha256
    assert found.detection.segmenter_sha256 == checkpoint_ref("s", places["segmenter"]).sha256
    assert found.vlm.model_sha256 == settled.curation.vlm.model_sha256 == checkpoint_ref("v", places["vlm"]).sha256
    assert settle(settled) == (settled, [])
    folder(tmp_path, "segmenter", "other weights")
    again, _ = settle(asked)
    assert again.perception.digest() != found.digest() and again.curation.digest() == settled.curation.digest()


def test_the_sentence_encoder_enters_by_its_digest_and_a_pin_is_checked(tmp_path: Path) -> None:
    asked = EvaluationSection(sentence_encoder=folder(tmp_path, "encoder", "weights"))
    settled, _ = settle(Config(evaluation=asked))
    assert settled.evaluation.sentence_encoder_sha256 == checkpoint_ref("e", str(tmp_path / "encoder")).sha256
    folder(tmp_path, "encoder", "other weights")
    with pytest.raises(ValueError, match="evaluation.sentence_encoder: sha256 .* get the pinned encoder"):
        settle(settled)


def test_auto_becomes_the_metric_that_is_there_and_says_why() -> None:
    settled, notes = settle(Config(curation=CurationSection(metric="auto")))
    assert settled.curation.metric == "ssim" and len(notes) == 1 and notes[0].startswith("ssim: LPIPS weights absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"perception": PerceptionSection(grounding="grounded_sam")}, "perception.detection.detector"),
        ({"perception": PerceptionSection(grounding="transformers", detection=DetectionSection(detector="no/where"))},
         "perception.detection.detector"),
        ({"curation": CurationSection(vlm=VlmSection(model="nowhere"))}, r"curation\.vlm\.model: nowhere"),
        ({"curation": CurationSection(metric="lpips")}, "curation.metric=lpips"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settle(Config(**change))
