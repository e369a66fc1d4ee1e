"""The counter of parts: what captions promise, tails of counts, and real pictures with and without a fault."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artiagent.checkpoints import checkpoint_ref, locate
from artiagent.mitigation.judges import open_parts
from artiagent.nano.anatomy import (
    APART,
    FRONT,
    FRONT_OF_TWO,
    REAR,
    REFERENCE,
    SIDE,
    SINGLE,
    PartJudge,
    _shares_of,
    cast_of,
    clean_scenes,
    tails,
    write_reference,
)
from artiagent.nano.anatomy_check import CHECK_SEED, check, drawn
from artiagent.nano.flux_vae import encode_path
from artiagent.nano.scenes import render_scene

PARSER = locate("data/weights/nano-parser")


@pytest.fixture(scope="module")
def judge() -> PartJudge:
    return open_parts(checkpoint_ref("parser", "data/weights/nano-parser"))


def test_a_caption_tells_kinds_and_who_stands_where() -> None:
    assert cast_of("an orange spotted cat standing on sand under a pink sky") == (("cat", SINGLE),)
    assert cast_of("a red car to the left of a person in a blue shirt on a road") == (("car", APART), ("person", APART))
    assert cast_of("a red car in front of a black dog on a road") == (("car", FRONT), ("dog", REAR))
    three = cast_of("a person in front of a red horse to the left of a grey chair on a red carpet by a blue wall")
    assert three == (("person", FRONT_OF_TWO), ("horse", SIDE), ("chair", SIDE))


@pytest.mark.parametrize("caption", ["", "a unicorn on grass", "a cat, a dog, a car and a bird"])
def test_a_caption_without_known_entities_is_refused(caption: str) -> None:
    with pytest.raises(ValueError, match=r"names \d entities; expected 1 to 3 of"):
        cast_of(caption)


@pytest.mark.parametrize("first", range(0, 40, 8))
def test_a_cast_fits_the_scene_that_its_caption_tells_of(first: int) -> None:
    for scene in clean_scenes(CHECK_SEED + first, 8):
        assert Counter(kind for kind, _ in cast_of(scene.caption)) == Counter(e.name for e in scene.entities)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.integers(0, 9))
def test_tails_overlap_in_the_count_itself(histogram: list[int], count: int) -> None:
    shares = np.array(histogram) / sum(histogram)
    few, many = tails(shares, count)
    assert few + many == pytest.approx(1 + (shares[count] if count < len(shares) else 0))


def test_the_entities_of_a_caption_add_up() -> None:
    table = {"dog, apart": {"leg": [0, 0, 0, 1, 3]}, "bird, apart": {"leg": [0, 1, 1]}}
    shares = _shares_of(table, (("dog", APART), ("bird", APART)), "leg")
    assert shares == pytest.approx([0, 0, 0, 0, 0.125, 0.5, 0.375])
    assert _shares_of(table, (("dog", APART),), "wheel") == pytest.approx([1])


def test_pictures_with_a_part_too_many_or_too_few_are_told_from_clean_ones(judge: PartJudge) -> None:
    called = check(judge, islice(drawn(locate("data/artibench-nano")), 200))
    assert called["clean"].value <= 0.08
    assert called["omission"].value >= 0.8
    assert called["duplication"].value >= 0.55


def test_deviations_name_what_is_wrong(judge: PartJudge) -> None:
    scene = next(s for s in clean_scenes(CHECK_SEED, 200) if cast_of(s.caption)[0] == ("dog", SINGLE))
    tail = next(part for part in scene.entities[0].parts if part.name == "tail")
    without = scene.image.copy()
    without[tail.mask] = scene.image[0, 0]
    other = "a red elephant standing on grass under a blue sky"
    whole, missing, foreign = judge.deviations(
        [scene.image, without, scene.image], [scene.caption, scene.caption, other]
    )
    assert whole == ()
    assert [(found.name, found.direction) for found in missing] == [("tail", "few")]
    assert ("elephant", "absent") in [(found.name, found.direction) for found in foreign]


def test_restored_asks_for_equal_counts(judge: PartJudge) -> None:
    dog, cat = (render_scene(CHECK_SEED, kinds=[kind], entities=1).image for kind in ("dog", "teapot"))
    assert judge.restored([dog, cat], [dog, dog]).tolist() == [True, False]


def test_pictures_of_another_size_are_refused(judge: PartJudge) -> None:
    with pytest.raises(ValueError, match="expected 128 x 128 px"):
        judge.faulty([np.zeros((64, 64, 3), np.uint8)], ["a red dog on grass"])


def test_a_reference_is_made_again_and_belongs_to_its_parser(tmp_path: Path) -> None:
    tail = write_reference(PARSER, lambda images: images, tmp_path / "made.json", scenes=300, calibration=30)
    table = json.loads((tmp_path / "made.json").read_text())
    assert 0 <= tail < 0.5 and table["tail"] == tail
    assert all(min(histogram) >= 0 for kind in table["counts"].values() for histogram in kind.values())
    PartJudge(PARSER, tmp_path / "made.json")
    with pytest.raises(ValueError, match="20 scenes show"):
        write_reference(PARSER, lambda images: images, tmp_path / "few.json", scenes=20, calibration=5)
    assert not (tmp_path / "few.json").exists()
    (tmp_path / "made.json").write_text(json.dumps({**table, "parser": "0" * 64}))
    with pytest.raises(ValueError, match=r"remake it with 'python -m artiagent.nano.anatomy"):
        PartJudge(PARSER, tmp_path / "made.json")


def test_the_shipped_reference_knows_every_kind_in_every_role() -> None:
    table = json.loads(REFERENCE.read_text())
    assert len(table["counts"]) == len(table["bodies"]) == 9 * 6
    encode = encode_path(locate("data/weights/nano-flux"))
    scene = render_scene(CHECK_SEED + 3)
    image = encode(scene.image[None])[0]
    assert not PartJudge(PARSER).faulty([image], [scene.caption]).any()
