"""nano-SAM: prompts, targets, loss, training that resumes into a folder that segments."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from artiagent.nano.grounding_evaluation import box_iou
from artiagent.nano.parser import classes
from artiagent.nano.sam import (
    IMAGE_SIZE,
    LEAST_IOU,
    PROMPTS,
    Learner,
    draw_prompts,
    mask_loss,
    masks_of,
    measure,
    prompts_of,
    shaken,
    train_sam,
)
from artiagent.nano.scene_pool import ScenePool
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene
from artiagent.nano.views import box_of, view_of
from artiagent.perception.grounding.sam import SamSegmenter, SamSizes

TINY = SamSizes(
    image_size=IMAGE_SIZE, patch_size=16, embed_dim=32, depth=2, num_heads=2, global_attention=(1,), window_size=4,
    out_channels=32, decoder_heads=2, decoder_mlp=32, multimask_outputs=0, mask_channels=4,
)  # fmt: skip
SETTINGS = {"minutes": 60.0, "batch": 2, "scenes": 4, "held_out": 2, "sizes": TINY}


def test_a_view_s_masks_are_its_entities_and_visible_parts() -> None:
    scene = render_scene(TRAIN_SEEDS[7], entities=2)
    masks = masks_of(view_of(scene))
    expected = [entity.mask for entity in scene.entities] + [p.mask for e in scene.entities for p in e.parts]
    assert len(masks) == len(expected) and all((a == b).all() for a, b in zip(masks, expected, strict=True))
    assert len(masks_of(view_of(scene, hidden=scene.entities[0].mask))) == 1 + len(scene.entities[1].parts)


def test_shaken_boxes_stay_about_the_thing_and_in_the_image() -> None:
    rng = random.Random(0)
    boxes = [(0, 0, 9, 12), (40, 50, 100, 128), (60, 60, 70, 66)]
    drawn = [(box, shaken(box, rng)) for box in boxes for _ in range(200)]
    ious = np.array([box_iou(np.array([a], float), np.array([b])).item() for a, b in drawn])
    assert ious.min() >= LEAST_IOU and (ious == 1).mean() > 0.2
    assert 0.55 < np.median(ious[ious < 1]) < 0.85
    assert all(0 <= low < high <= IMAGE_SIZE for _, box in drawn for low, high in ((box[0], box[2]), (box[1], box[3])))


def test_every_mask_is_asked_for_as_often_as_any_other() -> None:
    view = view_of(render_scene(TRAIN_SEEDS[7]))
    known = masks_of(view)
    boxes, masks = prompts_of(view, 2 * len(known), random.Random(0))
    assert boxes.shape == (2 * len(known), 4)
    assert all(sum((mask == one).all() for one in masks) == 2 for mask in known)
    with pytest.raises(ValueError, match="no prompts"):
        prompts_of(view_of(render_scene(TRAIN_SEEDS[7]), hidden=np.ones((128, 128), bool)), 3, random.Random(0))


def test_dense_targets_name_every_second_pixel_and_mark_where_things_end() -> None:
    drawn = draw_prompts(ScenePool(TRAIN_SEEDS[11], 1), 1, random.Random(2))
    view = view_of(ScenePool(TRAIN_SEEDS[11], 1).draw(random.Random(2)))  # as drawn: the first decision is the mirror
    part = max(view.parts, key=lambda p: p.area)
    labels, edges = drawn.labels[0].numpy(), drawn.edges[0].numpy()
    assert (labels == classes().index(part.name))[part.mask[1::2, 1::2]].all()
    assert drawn.boxes.shape == (1, PROMPTS, 4) and drawn.masks.shape == (1, PROMPTS, 128, 128)
    things = view.owners[1::2, 1::2].astype(int)
    apart = things[:, :-1] != things[:, 1:]
    assert edges[:, :-1][apart].all() and 0.02 < edges.mean() < 0.4
    assert not edges[labels == 0].all()


def test_the_loss_falls_with_the_mask_and_asks_for_its_iou() -> None:
    truth = torch.zeros(1, 32, 32)
    truth[:, 8:20, 8:24] = 1
    losses = []
    for shift in (0, 3, 6, 9):
        mask = torch.roll(truth, shift, 2)
        iou = (truth * mask).sum() / torch.maximum(truth, mask).sum()
        losses.append(float(mask_loss(mask * 12 - 6, truth, iou.view(1))))
        assert mask_loss(mask * 12 - 6, truth, iou.view(1) + 0.5) == pytest.approx(losses[-1] + 0.25, abs=1e-5)
    assert losses == sorted(losses) and losses[0] < 0.05 and losses[1] > 1


def test_the_encoder_learns_from_dense_targets_alone_and_from_masks() -> None:
    learner = Learner(TINY)
    drawn = draw_prompts(ScenePool(TRAIN_SEEDS[11], 2), 2, random.Random(2))
    learner(drawn, masks=False).backward()
    assert learner.sam.image_encoder.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in learner.sam.mask_decoder.parameters())
    learner(drawn).backward()
    assert learner.sam.mask_decoder.iou_token.weight.grad.abs().sum() > 0


def test_a_few_steps_on_one_scene_find_its_masks() -> None:
    torch.manual_seed(0)
    learner, pool = Learner(TINY.model_copy(update={"patch_size": 8, "embed_dim": 64})), ScenePool(TRAIN_SEEDS[11], 1)
    optimizer = torch.optim.AdamW(learner.parameters(), 2e-3)
    drawn = draw_prompts(pool, 1, random.Random(3))
    losses = []
    for _ in range(40):
        loss = learner(drawn)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-3:]) < 0.75 * np.mean(losses[:3])


def test_training_resumes_and_the_folder_segments(tmp_path: Path) -> None:
    train_sam(tmp_path / "sam", tmp_path / "work", steps=1, **SETTINGS)
    report = train_sam(tmp_path / "sam", tmp_path / "work", steps=4, **SETTINGS)
    assert [point["step"] for point in report["curve"]] == [1, 4]
    saved = json.loads((tmp_path / "sam" / "training.json").read_text())
    assert saved["held_out"] == report["held_out"] and saved["held_out"]["scenes"] == 2
    segmenter = SamSegmenter(str(tmp_path / "sam"), device="cpu")
    assert segmenter.segment([np.zeros((90, 128, 3), np.uint8)], [np.array([[4, 4, 60, 60]])])[0].shape == (1, 90, 128)
    with pytest.raises(ValueError, match="another recipe"):
        train_sam(
            tmp_path / "sam", tmp_path / "work", steps=4, **{**SETTINGS, "sizes": TINY.model_copy(update={"depth": 3})}
        )


class FillsTheBox:
    """A segmenter that takes the box for the mask."""

    name = "box"

    def segment(self, images: list[np.ndarray], boxes: list[np.ndarray]) -> list[np.ndarray]:
        masks = []
        for image, found in zip(images, boxes, strict=True):
            filled = np.zeros((len(found), *image.shape[:2]), bool)
            for mask, (x0, y0, x1, y1) in zip(filled, found.round().astype(int), strict=True):
                mask[y0:y1, x0:x1] = True
            masks.append(filled)
        return masks


def test_figures_tell_entities_from_parts_and_true_boxes_from_shaken_ones() -> None:
    figures = measure(FillsTheBox(), first_seed=TRAIN_SEEDS[30], scenes=3)
    views = [view_of(render_scene(TRAIN_SEEDS[30] + n)) for n in range(3)]
    shares = [float(mask.sum() / box_of(mask).area) for view in views for mask in masks_of(view)[: len(view.kinds)]]
    assert figures["entity_iou_true_box"] == pytest.approx(np.mean(shares), abs=1e-3)
    assert figures["part_iou_shaken_box"] < figures["part_iou_true_box"] < 1
