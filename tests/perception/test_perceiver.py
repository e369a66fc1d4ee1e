"""Perception with agents and detectors: who names what is searched, who finds it, and why an image yields no scene."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from artiagent.config import InputSet, PerceptionSection, VlmSection
from artiagent.nano.kinds import part_layers
from artiagent.nano.scenes import render_scene
from artiagent.nano.views import parts_of_kinds
from artiagent.perception import perceiver
from artiagent.perception.grounding import Grounding, GroundingError, Instance
from artiagent.perception.intake import Intake
from artiagent.perception.perceiver import describe
from artiagent.perception.sources import SourceError
from artiagent.perception.stage import PerceptionError, perceive
from artiagent.perception.vocabulary import Vocabulary
from artiagent.records import DatasetRef, Scene
from artiagent.store import read_rows
from artiagent.vlm.calls import CALLS, read_calls
from artiagent.vlm.protocol import Answer, Request, VlmUnavailable

SEEDS = range(4)
LAYERS = part_layers()
TERMS = {
    kind: {
        "peripheral": tuple(p for p in parts if LAYERS[p] != "intermediate"),
        "intermediate": tuple(p for p in parts if LAYERS[p] != "peripheral"),
    }
    for kind, parts in parts_of_kinds().items()
}
PERIPHERAL = {part for layers in TERMS.values() for part in layers["peripheral"]}


class Seer:
    """A detector that knows the rendered scenes: finds, of what it is asked for, what is there."""

    name, needs_vocabulary = "seer", True

    def __init__(self) -> None:
        scenes = [render_scene(seed) for seed in SEEDS]
        self.known = {scene.image.tobytes(): scene for scene in scenes}
        self.searched: list[set[str]] = []

    def ground(
        self, images: Sequence[Intake], names: Sequence[str], vocabularies: Sequence[Vocabulary | None]
    ) -> list[Grounding | GroundingError]:
        return [self._one(image, vocabulary) for image, vocabulary in zip(images, vocabularies, strict=True)]

    def _one(self, image: Intake, vocabulary: Vocabulary) -> Grounding | GroundingError:
        wanted = {e.entity for e in (*vocabulary.peripheral, *vocabulary.intermediate)}
        parts = {p for e in (*vocabulary.peripheral, *vocabulary.intermediate) for p in e.subentities}
        self.searched.append(wanted | parts)
        scene = self.known.get(image.pixels.tobytes())
        if scene is None:
            return GroundingError("never seen")
        found = []
        for k, entity in enumerate(scene.entities):
            if entity.name in wanted:
                found.append(Instance(f"e{k}", entity.name, "entity", entity.mask))
            found += [
                Instance(f"p{k}.{j}", p.name, p.layer, p.mask) for j, p in enumerate(entity.parts) if p.name in parts
            ]
        return Grounding(tuple(found), Counter(suppressed=1))


@pytest.fixture
def seer(monkeypatch: pytest.MonkeyPatch) -> Seer:
    made = Seer()
    monkeypatch.setattr("artiagent.perception.grounding.detect.load_grounder", lambda section: made)
    return made


@pytest.fixture
def photos(scene_folder: Callable) -> InputSet:
    """The pictures alone, without a word about them."""
    return InputSet(name="photos", images=str(scene_folder(len(SEEDS)).images), licence="CC-BY-4.0")


def answers(vocabulary: object = None, caption: str = "a dog and a horse and a bird") -> Callable[[Request], str]:
    entries = [{"entity": kind, "subentities": list(by["peripheral"])} for kind, by in TERMS.items()]
    said = json.dumps({"peripheral": entries, "intermediate": []}) if vocabulary is None else vocabulary
    return lambda request: said if request.task == "vocabulary" else caption


@pytest.fixture
def with_vlm(scripted, monkeypatch: pytest.MonkeyPatch) -> Callable:
    def install(answer: Callable[[Request], object]):
        vlm = scripted(answer)
        monkeypatch.setattr(perceiver, "load_vlm", lambda *arguments: vlm)
        return vlm

    return install


def scenes_of(ref: DatasetRef) -> list[Scene]:
    return [row.record for row in read_rows(ref, Scene, ())]


def test_the_vocabulary_agents_terms_are_searched_and_every_scene_says_so(
    seer: Seer, photos: InputSet, with_vlm: Callable, tmp_path: Path
) -> None:
    vlm = with_vlm(answers())
    section = PerceptionSection(grounding="grounded_sam", vocabulary="vlm", window=2)
    ref = perceive(section, [photos], tmp_path / "out")
    scenes = scenes_of(ref)
    assert scenes and all(searched == {*TERMS, *PERIPHERAL} for searched in seer.searched)
    scene = scenes[0]
    assert (scene.grounding, scene.licence, scene.caption) == ("seer", "CC-BY-4.0", "a dog and a horse and a bird")
    assert scene.agents["vocabulary"].startswith("vocabulary@1#") and scene.agents["caption"].endswith(" scripted")
    assert all(s.dropped["suppressed"] == 1 for s in scenes)
    assert Counter(r.task for r in vlm.asked) == {"vocabulary": len(SEEDS), "caption": len(SEEDS)}
    calls = list(read_calls(Path(ref.uri) / CALLS))
    assert len(calls) == ref.summary["vlm_calls"] == 2 * len(SEEDS)  # those about skipped images included
    assert {call.key for call in calls} >= {scene.source_id for scene in scenes}


def test_fixed_terms_are_narrowed_by_the_caption(
    seer: Seer, photos: InputSet, with_vlm: Callable, tmp_path: Path
) -> None:
    with_vlm(answers(caption="a brown dog on grass"))
    section = PerceptionSection(grounding="transformers", vocabulary="caption", terms=TERMS)
    try:
        perceive(section, [photos], tmp_path / "out")
    except PerceptionError as error:  # only where no dog is in any of the scenes
        assert "no_entity" in str(error)
    of_dogs = {part for parts in TERMS["dog"].values() for part in parts}
    assert all(searched == {"dog"} | of_dogs for searched in seer.searched) and seer.searched


def test_annotated_names_can_be_searched_by_a_detector(seer: Seer, scene_folder: Callable, tmp_path: Path) -> None:
    folder = scene_folder(len(SEEDS))
    annotated = perceive(PerceptionSection(), [folder.source], tmp_path / "known")
    detected = perceive(PerceptionSection(grounding="grounded_sam"), [folder.source], tmp_path / "found")
    known, found = scenes_of(annotated), scenes_of(detected)
    assert [s.source_id for s in known] == [s.source_id for s in found]
    assert [s.caption for s in known] == [s.caption for s in found]  # the annotations' caption stays
    for a, b in zip(known, found, strict=True):
        assert sorted((e.name, sorted(p.name for p in e.parts)) for e in a.entities) == sorted(
            (e.name, sorted(p.name for p in e.parts)) for e in b.entities
        )


@pytest.mark.parametrize(
    ("vocabulary", "reason"),
    [
        ("no json", "vlm_error: vocabulary: not valid JSON"),
        (Answer(error="timeout"), "vlm_error: vocabulary: timeout"),
        ('{"peripheral": [], "intermediate": []}', "no_vocabulary"),
        ('{"peripheral": [{"entity": "unicorn", "subentities": ["horn"]}], "intermediate": []}', "no_entity"),
    ],
)
def test_an_image_without_a_scene_names_its_reason(
    seer: Seer, photos: InputSet, with_vlm: Callable, tmp_path: Path, vocabulary: object, reason: str
) -> None:
    with_vlm(answers(vocabulary))
    section = PerceptionSection(grounding="grounded_sam", vocabulary="vlm")
    with pytest.raises(PerceptionError, match=f"{len(SEEDS)} skipped: {reason.split(':')[0]} {len(SEEDS)}") as caught:
        perceive(section, [photos], tmp_path / "out")
    assert reason in str(caught.value) and not (tmp_path / "out").exists()


def test_one_image_that_fails_does_not_concern_the_others(
    seer: Seer, photos: InputSet, with_vlm: Callable, tmp_path: Path
) -> None:
    ids: list[str] = []

    def answer(request: Request) -> object:
        if request.task == "vocabulary" and not ids:
            ids.append(request.key)
        return Answer(error="http 500") if request.key in ids else answers()(request)

    with_vlm(answer)
    ref = perceive(PerceptionSection(grounding="grounded_sam", vocabulary="vlm"), [photos], tmp_path / "out")
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert any(text == "vlm_error: vocabulary: http 500" for text in skipped.values())
    assert ids[0] not in {s.source_id for s in scenes_of(ref)} and ref.summary["vlm_failed"] >= 1


def test_a_server_that_is_gone_stops_the_run_and_keeps_what_is_finished(
    seer: Seer, photos: InputSet, with_vlm: Callable, tmp_path: Path
) -> None:
    asked: list[str] = []

    def answer(request: Request) -> object:
        asked.append(request.key)
        if len(asked) > 4:
            raise VlmUnavailable("http://127.0.0.1:1/v1: no answer; see perception.vlm.base_url")
        return answers()(request)

    section = PerceptionSection(grounding="grounded_sam", vocabulary="vlm", window=1)
    with_vlm(answer)
    with pytest.raises(VlmUnavailable, match="base_url"):
        perceive(section, [photos], tmp_path / "out")
    first = set(asked)
    vlm = with_vlm(answers())
    resumed = perceive(section, [photos], tmp_path / "out")
    finished = {s.source_id for s in scenes_of(resumed)} & first - {asked[-1]}
    assert finished and not finished & {r.key for r in vlm.asked}
    assert resumed.summary["vlm_calls"] >= 2 * len(scenes_of(resumed))


def test_what_does_not_go_together_is_refused_before_anything_is_read(
    seer: Seer, photos: InputSet, tmp_path: Path
) -> None:
    for section in (PerceptionSection(), PerceptionSection(grounding="grounded_sam")):
        with pytest.raises(SourceError, match="'photos': no annotations given"):
            perceive(section, [photos], tmp_path / "out")
    with pytest.raises(ValueError, match="perception.terms"):
        perceive(PerceptionSection(grounding="grounded_sam", vocabulary="caption"), [photos], tmp_path / "out")
    with pytest.raises(ValueError, match="perception.vlm.model"):
        section = PerceptionSection(grounding="grounded_sam", vocabulary="vlm", vlm=VlmSection())
        perceive(section, [photos], tmp_path / "out")


def test_entities_are_described_in_words() -> None:
    assert describe(["dog", "cat", "dog"]) == "two dogs and a cat" and describe(["person", "person"]) == "two people"
