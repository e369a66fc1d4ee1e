"""nano-CLIP: its files, its loss, and a training that resumes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from artiagent.nano.clip import (
    CaptionBatch,
    Contrastive,
    build_model,
    build_processor,
    draw_captioned,
    normalised,
    retrieval,
    train_clip,
)
from artiagent.nano.patch_heads import PatchTargets
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene

TINY = {"hidden": 32, "text_hidden": 32, "depth": 2}


@pytest.fixture(scope="module")
def processor() -> CLIPProcessor:
    return build_processor()


def test_pixels_are_the_processors_and_captions_are_words(processor: CLIPProcessor) -> None:
    scene = render_scene(TRAIN_SEEDS[7])
    made = processor(text=[scene.caption], images=[scene.image.copy()], return_tensors="pt")
    torch.testing.assert_close(made.pixel_values, normalised(scene.image[None].copy(), processor), atol=1e-5, rtol=0)
    assert made.input_ids.shape[1] == len(scene.caption.split()) + 2


def test_training_resumes_and_the_folder_reloads(tmp_path: Path) -> None:
    settings = {"minutes": 60.0, "batch": 4, "scenes": 6, "held_out": 4, **TINY}
    train_clip(tmp_path / "clip", tmp_path / "work", steps=2, **settings)
    report = train_clip(tmp_path / "clip", tmp_path / "work", steps=3, **settings)
    assert report["steps"] == 3
    assert [point["step"] for point in report["curve"]] == [2, 3]
    model, processor = CLIPModel.from_pretrained(tmp_path / "clip"), AutoProcessor.from_pretrained(tmp_path / "clip")
    assert model.dtype == torch.float16
    assert isinstance(processor.tokenizer, CLIPTokenizer)
    pixels = processor(images=[render_scene(TRAIN_SEEDS[8]).image.copy()], return_tensors="pt").pixel_values
    tokens = model.float().vision_model(pixel_values=pixels).last_hidden_state
    assert tokens.shape == (1, 1 + 256, TINY["hidden"])


def test_the_loss_falls_on_a_batch_that_is_seen_again(processor: CLIPProcessor) -> None:
    learner = Contrastive(build_model(processor.tokenizer, **TINY))
    drawn = draw_captioned(ScenePool(TRAIN_SEEDS[0], 8), processor, 8, random.Random(0))
    optimizer = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = learner(drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_equal_captions_are_not_each_others_negatives(processor: CLIPProcessor) -> None:
    learner = Contrastive(build_model(processor.tokenizer, **TINY)).eval()
    learner.heads.weights = (0.0, 0.0, 0.0)
    drawn = draw_captioned(ScenePool(TRAIN_SEEDS[0], 4), processor, 2, random.Random(1))
    parts = (drawn.pixel_values, drawn.input_ids, drawn.attention_mask, *drawn.targets)
    *parts, labels, colours, altered = (part[:1].repeat(2, *[1] * (part.ndim - 1)) for part in parts)
    twice = CaptionBatch(*parts, PatchTargets(labels, colours, altered))
    with torch.no_grad():
        assert learner(twice).item() == pytest.approx(np.log(2), abs=1e-4)


def test_retrieval_of_a_perfect_model_is_one(processor: CLIPProcessor) -> None:
    class Oracle:
        """Scores an image by how far its caption's tokens agree with each text."""

        def __call__(self, input_ids: torch.Tensor, **_: torch.Tensor) -> object:
            same = (input_ids[:, None] == input_ids[None]).float().mean(-1)
            return type("Output", (), {"logits_per_image": same})()

    scores = retrieval(Oracle(), processor, first_seed=TRAIN_SEEDS[50], scenes=5)
    assert (scores["image_to_text"], scores["text_to_image"]) == (1.0, 1.0)
