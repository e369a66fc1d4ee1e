"""The linear probe on frozen vision features."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from artiagent.nano.drawn_pairs import write_drawn_pairs
from artiagent.nano.probe import pair_features, probe
from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model
from artiagent.vlm.local import LocalVlm


def same(images: np.ndarray) -> np.ndarray:
    return images


def test_the_probe_sees_a_difference_that_is_there(tmp_path: Path) -> None:
    processor = build_processor(build_tokenizer())
    save_model(tmp_path / "base", build_model(processor.tokenizer, hidden=48, vision_hidden=32, depth=1), processor)
    write_drawn_pairs(tmp_path / "curated", tmp_path / "scenes", 12, encode=same)
    vlm = LocalVlm(tmp_path / "base", device="cpu")
    clean, artifact, sources = pair_features(vlm, tmp_path / "curated")
    assert clean.shape == artifact.shape == (12, 3 * 48)
    found = probe(clean, artifact + 1.0, sources)
    assert found["auroc"].value > 0.9
    assert found["pairs"].value > 0.9
    assert 0.2 < probe(clean, clean, sources)["auroc"].value < 0.8
