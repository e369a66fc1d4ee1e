"""Two conversations a pair, split by source, placeholders that point at boxes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.config import InstructionSection
from artiagent.images import encode
from artiagent.instruction import conversations, prompts
from artiagent.instruction.conversations import (
    PLACEHOLDER,
    SeenPart,
    build_conversations,
    check,
    fill_boxes,
    mirrored,
    shows,
    split_of,
    usable,
)
from artiagent.instruction.coordinates import CoordinateSpace
from artiagent.records import (
    Artifact,
    Box,
    Conversation,
    DatasetRef,
    Entity,
    Injection,
    Mask,
    Pair,
    Part,
    PatchMapping,
    Scene,
    Turn,
)
from artiagent.store import DatasetWriter, Row, read_rows

SIZE = 64
NOTHING = Mask.encode(np.zeros((SIZE, SIZE), bool))
EAR, TAIL, SPOT = Box(8, 8, 16, 16), Box(40, 40, 56, 48), Box(24, 24, 40, 40)


def image(value: int) -> bytes:
    return encode(np.full((SIZE, SIZE, 3), value, np.uint8))


def scene(source: str) -> Scene:
    parts = tuple(
        Part(id=f"0.{name}", name=name, layer="peripheral", mask=NOTHING, box=box)
        for name, box in (("ear", EAR), ("tail", TAIL))
    )
    dog = Entity(id="0", name="dog", mask=NOTHING, box=Box(0, 0, 60, 60), parts=parts)
    return Scene(
        source_id=source, group="scenes", width=SIZE, height=SIZE, image_sha256="0", caption="a dog", entities=(dog,)
    )


def artifact(tool: str = "add", box: Box = SPOT, accepted: bool | None = True, reason: str | None = None) -> Artifact:
    mapping = PatchMapping(grid=(8, 8), targets=(0,), references=(1,))
    injection = Injection(tool=tool, entity="dog", entity_id="0", part="ear", seed=0, mapping=mapping)
    return Artifact(
        injection=injection, box=box, region=NOTHING, accepted=accepted, reason=reason,
        label="extra ear", explanation="There is an extra ear.",
    )  # fmt: skip


def pair(job: str, source: str, *artifacts: Artifact, scored: bool = True) -> Pair:
    return Pair(
        job_id=job, source_id=source, group="scenes" if scored else "photos", scored=scored, variant=0,
        width=SIZE, height=SIZE, prompt="a dog", artifacts=artifacts, backbone="b", backbone_sha256="0",
        sampling={}, caption="a dog", explanation="The dog has an extra ear.",
    )  # fmt: skip


def write(folder: Path, pairs: list[Pair]) -> tuple[DatasetRef, DatasetRef]:
    """(curated, scenes); the clean side of row k is grey 2k, the artifact side 2k + 1."""
    curated: DatasetWriter[Pair] = DatasetWriter(folder / "curated", "curated", ("clean", "artifact"))
    for k, made in enumerate(pairs):
        curated.write(f"{k:03d}", [Row(made.job_id, made, {"clean": image(2 * k), "artifact": image(2 * k + 1)})])
    scenes: DatasetWriter[Scene] = DatasetWriter(folder / "scenes", "scenes", ("image",))
    sources = sorted({made.source_id for made in pairs})
    scenes.write("all", [Row(source, scene(source), {"image": image(0)}) for source in sources])
    return curated.finish(), scenes.finish()


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[DatasetRef, DatasetRef]:
    """Two accepted pairs of s1 with a benign one, one of s2; a rejected one, a photograph, a failed benign one."""
    benign = artifact("benign", accepted=False)
    return write(
        tmp_path,
        [
            pair("j1", "s1", artifact()),
            pair("j2", "s1", artifact(box=TAIL), artifact(box=EAR)),
            pair("j3", "s1", benign),
            pair("j4", "s2", artifact("remove", EAR), artifact(box=SPOT, accepted=False, reason="judge_rejected")),
            pair("j5", "s2", artifact(accepted=False, reason="too_similar")),
            pair("j6", "s3", artifact(), scored=False),
            pair("j7", "s2", artifact("benign", accepted=False, reason="change_outside")),
        ],
    )


def built(data: tuple[DatasetRef, DatasetRef], out: Path, **values: object) -> dict[str, Row[Conversation]]:
    ref = build_conversations(InstructionSection(**values), *data, out)
    return {row.key: row for row in read_rows(ref, Conversation)}


def test_both_sides_of_accepted_scored_pairs_and_nothing_else(mixed, tmp_path: Path) -> None:
    rows = built(mixed, tmp_path / "out")
    assert sorted(rows) == [f"{job}-{side}" for job in ("j1", "j2", "j4") for side in ("artifact", "clean")]
    assert sum(row.record.faulty for row in rows.values()) == len(rows) / 2
    for row in rows.values():
        first = row.record.turns[1].text
        assert first == (prompts.YES if row.record.faulty else prompts.NO)
        assert row.record.turns[0].text in prompts.WORDINGS[prompts.BINARY]


def test_a_benign_injection_replaces_one_twin_of_its_source(mixed, tmp_path: Path) -> None:
    rows = built(mixed, tmp_path / "with")
    assert {key: row.record.benign_of for key, row in rows.items() if row.record.benign_of} == {"j1-clean": "j3"}
    assert rows["j1-clean"].images["image"] == image(2 * 2 + 1)  # the benign image, not j1's twin
    assert rows["j2-clean"].images["image"] == image(2 * 1)
    assert rows["j1-clean"].record.turns[3].text == "[]"
    without = built(mixed, tmp_path / "without", hard_negatives=False)
    assert without["j1-clean"].images["image"] == image(0)
    assert not any(row.record.benign_of for row in without.values())


def test_only_surviving_artifacts_are_located_and_explained(mixed, tmp_path: Path) -> None:
    rows = built(mixed, tmp_path / "out")
    several = rows["j2-artifact"].record
    assert several.boxes == (EAR, TAIL)  # left to right
    assert several.turns[3].text == "[{box:0},{box:1}]"
    assert rows["j4-artifact"].record.boxes == (EAR,)
    assert several.turns[5].text == "extra ear" and several.turns[7].text == "The dog has an extra ear."


def test_clean_side_keeps_ordinary_grounding_with_true_answers(mixed, tmp_path: Path) -> None:
    clean = built(mixed, tmp_path / "out")["j4-clean"].record
    asked = {question.text: answer.text for question, answer in zip(clean.turns[::2], clean.turns[1::2], strict=True)}
    assert len(asked) == 4 and list(asked.values())[-1] == "a dog"
    located = clean.turns[2].text
    assert "ear" in located and clean.boxes[0] == EAR, "asks about the artifact's own part"
    region = clean.turns[4].text
    box = clean.boxes[int(PLACEHOLDER.findall(region)[0])]
    name = "ear" if "ear" in region else "tail"
    assert clean.turns[5].text == prompts.yes_no({"ear": EAR, "tail": TAIL}[name] == box)


@st.composite
def curated_pairs(draw: st.DrawFn) -> list[Pair]:
    """Pairs of a few sources, accepted, rejected and benign, in any order."""
    made = []
    for k in range(draw(st.integers(1, 14))):
        source, fate = f"s{draw(st.integers(0, 5))}", draw(st.sampled_from(("accepted", "rejected", "benign")))
        tool = "benign" if fate == "benign" else draw(st.sampled_from(("add", "remove", "distort", "fuse")))
        reason = "too_similar" if fate == "rejected" else None
        made.append(pair(f"j{k}", source, artifact(tool, accepted=fate == "accepted", reason=reason)))
    return made


@settings(max_examples=25)
@given(curated_pairs(), st.floats(0, 0.9), st.integers(0, 3))
def test_no_source_is_in_both_splits_and_both_sides_are_equally_many(
    pairs: list[Pair], val_share: float, seed: int
) -> None:
    with TemporaryDirectory() as folder:
        data = write(Path(folder), pairs)
        values = {"val_share": val_share, "seed": seed}
        if not any(usable(made) for made in pairs):
            with pytest.raises(ValueError, match="none of"):
                built(data, Path(folder) / "out", **values)
            return
        rows = built(data, Path(folder) / "out", **values)
        again = built(data, Path(folder) / "again", **values)
    assert {key: row.record for key, row in rows.items()} == {key: row.record for key, row in again.items()}
    records = [row.record for row in rows.values()]
    splits = {(record.source_id, record.split) for record in records}
    assert len({source for source, _ in splits}) == len(splits)
    for split in ("train", "val"):
        sides = [record.faulty for record in records if record.split == split]
        assert sum(sides) * 2 == len(sides)
    assert {record.pair_id for record in records} == {made.job_id for made in pairs if usable(made)}
    benign = [record.benign_of for record in records if record.benign_of]
    assert len(benign) == len(set(benign)) and set(benign) <= {made.job_id for made in pairs if made.benign}
    for record in records:
        check(record)
        assert record.turns[1].text == (prompts.YES if record.faulty else prompts.NO)


def test_nothing_is_written_that_breaks_the_schema(mixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outside(pair: Pair, *_: object) -> tuple[str, Box, bool]:
        return "ear", Box(0, 0, pair.width + 1, 4), False

    monkeypatch.setattr(conversations, "_part_in_box", outside)
    with pytest.raises(ValueError, match="not inside 64x64 px"):
        built(mixed, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_turns_are_configured_and_the_seed_draws_wordings(mixed, tmp_path: Path) -> None:
    short = built(mixed, tmp_path / "short", turns=("binary", "explain"))
    assert {len(row.record.turns) for row in short.values()} == {4}
    texts = {
        seed: [row.record.turns[0].text for row in built(mixed, tmp_path / f"seed{seed}", seed=seed).values()]
        for seed in (0, 1, 2)
    }
    assert len({tuple(text) for text in texts.values()}) > 1
    assert texts[0] == [row.record.turns[0].text for row in built(mixed, tmp_path / "again").values()]


def test_a_number_of_pairs_takes_the_tools_in_turn(tmp_path: Path) -> None:
    tools = {"j1": "fuse", "j2": "add", "j3": "add", "j4": "add", "j5": "remove"}
    pairs = [pair(job, f"s{job}", artifact(tool)) for job, tool in tools.items()]
    benign = pair("j6", "sj3", artifact("benign", accepted=False))
    data = write(tmp_path, [*reversed(pairs), benign])
    jobs = {row.record.pair_id for row in built(data, tmp_path / "three", pairs=3).values()}
    assert jobs == {"j1", "j2", "j5"}
    rows = built(data, tmp_path / "four", pairs=4)
    assert len(rows) == 8 and rows["j3-clean"].record.benign_of == "j6"
    assert len(built(data, tmp_path / "more", pairs=9)) == 10


def test_nothing_accepted_is_an_error_that_says_so(tmp_path: Path) -> None:
    data = write(tmp_path, [pair("j1", "s1", artifact(accepted=False, reason="too_similar"))])
    with pytest.raises(ValueError, match="none of 1 pairs is accepted"):
        build_conversations(InstructionSection(), *data, tmp_path / "out")


def test_sources_never_part_and_the_share_is_met() -> None:
    splits = [split_of(f"source-{i}", 0.2, 0) for i in range(2000)]
    assert 0.17 < splits.count("val") / 2000 < 0.23
    assert splits == [split_of(f"source-{i}", 0.2, 0) for i in range(2000)]
    assert {split_of(f"source-{i}", 0.0, 0) for i in range(50)} == {"train"}


@given(st.tuples(st.integers(0, 40), st.integers(0, 40)), st.integers(1, 24), st.integers(1, 24))
def test_placeholders_round_trip_through_a_scaled_space(corner: tuple[int, int], width: int, height: int) -> None:
    box = Box(corner[0], corner[1], corner[0] + width, corner[1] + height)
    space = CoordinateSpace(64, 64, 128, 128)
    text = fill_boxes("see {box:0}", (box,), space)
    assert text == f"see {prompts.format_box([2 * v for v in box])}"


def test_a_box_shows_a_part_surely_or_not_at_all() -> None:
    parts = (SeenPart("dog", "ear", EAR, True),)
    assert shows(parts, "ear", Box(0, 0, 20, 20)) is True
    assert shows(parts, "ear", TAIL) is False
    assert shows(parts, "ear", Box(12, 8, 30, 16)) is None
    assert shows(parts, "wheel", EAR) is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turns": (Turn(role="user", text="a"),)}, "in turn"),
        ({"turns": (Turn(role="user", text="{box:1}"), Turn(role="assistant", text="b"))}, "boxes"),
        ({"turns": (Turn(role="user", text=""), Turn(role="assistant", text="b"))}, "without text"),
        ({"boxes": (Box(0, 0, SIZE + 1, 4),)}, "not inside"),
        ({"boxes": (Box(4, 4, 4, 8),)}, "not inside"),
    ],
)
def test_schema_violations_are_named(change: dict, message: str) -> None:
    good = Conversation(
        conversation_id="c", pair_id="p", source_id="s", split="train", faulty=True, width=SIZE, height=SIZE,
        boxes=(EAR,), turns=(Turn(role="user", text="in {box:0}?"), Turn(role="assistant", text="Yes")),
    )  # fmt: skip
    check(good)
    with pytest.raises(ValueError, match=message):
        check(good.model_copy(update=change))


def test_mirroring_moves_boxes_sorts_lists_and_drops_sides() -> None:
    def turns(question: str, answer: str) -> tuple[Turn, Turn]:
        return Turn(role="user", text=question), Turn(role="assistant", text=answer)

    said = (
        *turns("Where?", "[{box:0},{box:1}]"),
        *turns("What is {box:0}?", "extra ear"),
        *turns("Describe.", "a cat to the left of a dog"),
    )
    boxes = (Box(0, 8, 16, 24), Box(96, 0, 128, 8))
    plain = Conversation(
        conversation_id="c", pair_id="p", source_id="s", faulty=True, split="train", width=128, height=128,
        turns=said, boxes=boxes,
    )  # fmt: skip
    other = mirrored(plain)
    check(other)
    assert other.pair_id != plain.pair_id and other.faulty
    assert other.boxes == (Box(112, 8, 128, 24), Box(0, 0, 32, 8))
    assert [turn.text for turn in other.turns] == ["Where?", "[{box:1},{box:0}]", "What is {box:0}?", "extra ear"]
    twice = mirrored(other)
    assert twice.boxes == plain.boxes and twice.turns == plain.turns[:4]
