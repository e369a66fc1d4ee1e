"""Clean renderings on disk are an audit's source, prompt by prompt."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np

from artiagent.mitigation.audit.sources import Folder
from artiagent.mitigation.prompts import read_prompts
from artiagent.nano.clean_set import scenes_of, write_clean_set


def test_the_scenes_of_the_shipped_prompts_are_found_and_read_back(tmp_path: Path) -> None:
    prompts = read_prompts("configs/prompts/nano.txt")
    scenes = list(scenes_of(prompts[:6]))
    assert [scene.caption for scene in scenes] == list(prompts[:6])
    assert list(scenes_of(["a prompt of another origin"])) == []
    assert write_clean_set(tmp_path / "clean", islice(scenes, 3), lambda images: images) == 3
    source = Folder(tmp_path / "clean")
    assert [shot.prompt for shot in source.shots] == list(prompts[:3])
    (picture, _), *_ = source.pictures(source.shots[:1])
    assert np.array_equal(picture.pixels, scenes[0].image)
