"""Towers see what their models see, and are stored without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, CLIPModel, Qwen2_5_VLForConditionalGeneration

from artiagent.learning.reward.heads import extract, grid_of, new_head, width_of
from artiagent.learning.reward.towers import load_tower, new_tower, open_tower, save_tower
from artiagent.learning.reward.verifier import Member, Verifier, to_pixels
from artiagent.records import CheckpointRef


def picture(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_clip_tokens_are_those_of_its_own_processor(tiny_clip: CheckpointRef) -> None:
    tower = open_tower(Path(tiny_clip.uri))
    model = CLIPModel.from_pretrained(tiny_clip.uri, dtype=torch.float32).vision_model.eval()
    inputs = AutoImageProcessor.from_pretrained(tiny_clip.uri)(picture(32), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        found, expected = tower(to_pixels([picture(32)], 32)), model(pixel_values=inputs)
        tokens = model.post_layernorm(expected.last_hidden_state[:, 1:])
    assert torch.allclose(found.whole, expected.pooler_output, atol=1e-5)
    assert torch.allclose(found.cells, tokens, atol=1e-5)


def test_qwen_cells_are_those_of_its_own_processor(tiny_vlm: CheckpointRef) -> None:
    tower = open_tower(Path(tiny_vlm.uri), side=128)
    visual = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_vlm.uri, dtype=torch.float32).model.visual.eval()
    pictures = [picture(128, seed) for seed in (0, 1)]
    inputs = AutoImageProcessor.from_pretrained(tiny_vlm.uri)(pictures, return_tensors="pt")
    with torch.inference_mode():
        expected = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
        found = tower(to_pixels(pictures, 128))
    assert found.cells.shape == (2, 64, tower.width) and tower.rows == 8
    assert torch.allclose(found.cells.flatten(0, 1), expected, atol=1e-4)


def test_stored_towers_are_the_same_towers(tiny_clip: CheckpointRef, tiny_vlm: CheckpointRef, tmp_path: Path) -> None:
    for name, tower in {
        "clip": open_tower(Path(tiny_clip.uri)),
        "qwen": open_tower(Path(tiny_vlm.uri), side=64),
        "cnn": new_tower(48, 16),
    }.items():
        save_tower(tower.eval(), tmp_path / name)
        again = load_tower(tmp_path / name)
        seen = to_pixels([picture(64)], tower.side)
        with torch.inference_mode():
            for first, second in zip(tower(seen), again(seen), strict=True):
                assert torch.equal(first, second), name
        assert (again.kind, again.side, again.width, again.rows) == (tower.kind, tower.side, tower.width, tower.rows)


def test_poolings_give_the_places_they_promise(tiny_clip: CheckpointRef) -> None:
    tower = open_tower(Path(tiny_clip.uri))
    seen = to_pixels([picture(32), picture(32, 1)], 32)
    with torch.inference_mode():
        for pooling in ("pooled", "patches", "tokens", "crops"):
            rows, cols = grid_of(tower, pooling)
            assert extract(tower, seen, pooling).shape == (2, rows * cols, width_of(tower, pooling)), pooling
        assert torch.equal(extract(tower, seen, "tokens+whole")[:, :-1], extract(tower, seen, "tokens"))
        crops, whole = extract(tower, seen, "crops"), tower(seen).whole
        assert torch.equal(extract(tower, seen, "tokens+whole")[:, -1], whole)
        assert torch.allclose(crops[:, 4, tower.width :], whole), "every crop lies beside the whole picture"
        middle = seen[..., 8:24, 8:24].repeat_interleave(2, -1).repeat_interleave(2, -2)
        near = tower(middle).whole
    assert torch.nn.functional.cosine_similarity(crops[:, 4, : tower.width], near).min() > 0.9


def test_a_joint_head_hears_two_voices_and_its_map_is_that_of_the_first(tiny_clip: CheckpointRef) -> None:
    tower, images = open_tower(Path(tiny_clip.uri)), [picture(32), picture(32, 1)]
    torch.manual_seed(0)
    head = new_head(tower, "tokens+whole", 8).eval()
    features = extract(tower, to_pixels(images, 32), "tokens+whole")
    head.standardise(features.detach())
    judge = Verifier([Member(tower, head)], "tokens+whole", "", "cpu")
    with torch.inference_mode():
        local, whole = head.voices(features)
    rows, cols = grid_of(tower, "tokens+whole")
    assert local.shape == (2, rows * cols) and whole.shape == (2, 1)
    assert judge(images) == pytest.approx(((-torch.logsumexp(local, 1) - whole[:, 0]) / 2).numpy(), abs=1e-4)
    assert np.stack(judge.badness(images)).reshape(2, -1) == pytest.approx(local.numpy(), abs=1e-4)
