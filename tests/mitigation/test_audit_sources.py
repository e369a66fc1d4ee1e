"""Where images come from: seeds that follow from prompts, lists beside images, and places that hold nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import AuditedPlace, AuditSection
from artiagent.images import decode, encode
from artiagent.mitigation.audit.sources import Drawn, Folder, open_source, place_refs, prompts_of, seed_of, settled

FLUX = "data/weights/nano-flux"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, one that is none, and a list with prompts of two of them."""
    place = tmp_path / "made"
    place.mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (place / name).write_bytes(encode(pixels))
    (place / "c.png").write_bytes(b"no picture")
    (place / "prompts.csv").write_text('file_name,prompt,seed\na.png,"a dog,  black",7\nc.png,a cat,\n')
    return place


def test_a_folder_tells_prompts_and_what_cannot_be_read(folder: Path) -> None:
    source = Folder(folder)
    assert [tuple(shot) for shot in source.shots] == [
        ("a.png", "a dog, black", 7), ("b.png", "", None), ("c.png", "a cat", None),
    ]  # fmt: skip
    (good, data), (bad, _) = source.pictures([source.shots[0], source.shots[2]])
    assert np.array_equal(good.pixels, decode(data))
    assert bad.pixels is None and bad.reason


def test_a_limit_keeps_whole_prompts(folder: Path) -> None:
    (folder / "prompts.csv").write_text("file_name,text\na.png,one\nb.png,two\nc.png,one\n")
    assert [shot.name for shot in Folder(folder, limit=1).shots] == ["a.png", "c.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,prompt\na.png,x\n", r"expected file_name and prompt"),
        ("", r"expected file_name and prompt"),
        ("file_name,prompt,seed\na.png,x,one\n", r"seed 'one' of a.png is no whole number"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(folder: Path, text: str, message: str) -> None:
    (folder / "prompts.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"prompts.csv: .*{message}"):
        Folder(folder)


def test_a_seed_follows_from_prompt_and_number_alone() -> None:
    section = AuditSection(images=2)
    ref = checkpoint_ref("flux", FLUX)
    long, short = (Drawn(ref, section, prompts) for prompts in (("a dog", "a cat"), ("a cat",)))
    assert [shot.seed for shot in long.shots[2:]] == [shot.seed for shot in short.shots]
    assert len({shot.seed for shot in long.shots}) == len({shot.name for shot in long.shots}) == 4
    assert seed_of("a cat", 0, 1) != seed_of("a cat", 0, 0)
    with pytest.raises(ValueError, match="no prompts to draw from"):
        Drawn(ref, section, ())


def test_a_generator_draws_its_shots_whatever_the_batch() -> None:
    source = open_source(
        checkpoint_ref("flux", FLUX), AuditSection(images=1, steps=1, threads=1), ("a red dog on grass", "a blue cat")
    )
    together = [picture.pixels for picture, _ in source.pictures(source.shots)]
    alone = source.pictures(source.shots[1:])[0][0].pixels
    assert together[0].shape == (128, 128, 3)
    assert np.abs(together[1].astype(int) - alone).max() <= 2
    assert not np.array_equal(together[0], together[1])
    source.release()


def test_places_are_told_apart(folder: Path) -> None:
    refs = place_refs([AuditedPlace(location=str(folder)), AuditedPlace(name="flux", location=FLUX)])
    assert [ref.name for ref in refs] == ["made", "flux"]
    with pytest.raises(ValueError, match="two are called 'made'"):
        place_refs([AuditedPlace(location=str(folder))] * 2)
    with pytest.raises(ValueError, match="no generator to audit"):
        place_refs([])
    (folder.parent / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        place_refs([AuditedPlace(location=str(folder.parent / "empty"))])
    with pytest.raises(ValueError, match="no pipeline folder"):
        place_refs([AuditedPlace(location=str(folder / "prompts.csv"))])


def test_what_is_settled_is_checked_when_it_is_used(folder: Path, tmp_path: Path) -> None:
    (prompts := tmp_path / "prompts.txt").write_text("a dog\n\n# no\na cat\n")
    places = (AuditedPlace(location=str(folder)), AuditedPlace(location=FLUX))
    section = settled(AuditSection(generators=places, prompts=str(prompts)))
    assert [place.name for place in section.generators] == ["made", "nano-flux"]
    assert prompts_of(section) == ("a dog", "a cat")
    assert settled(section) == section
    prompts.write_text("a bird\n")
    with pytest.raises(ValueError, match=r"prompts.txt: changed"):
        prompts_of(section)
    (folder / "a.png").unlink()
    with pytest.raises(ValueError, match="made: its content changed"):
        place_refs(section.generators)


def test_a_folder_of_images_needs_no_prompts(folder: Path) -> None:
    section = settled(AuditSection(generators=(AuditedPlace(location=str(folder)),), prompts="nowhere.txt"))
    assert section.prompts_sha256 is None and prompts_of(section) == ()
