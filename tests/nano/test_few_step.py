"""nano-schnell and nano-fill: masks, conditions as the pipeline builds them, guided paths, a minuscule training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxFillPipeline, FluxPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from artiagent.checkpoints import locate
from artiagent.nano.distill import PIECES, Paths, Prompts, carried_over, chord_loss, guided_path, record_paths
from artiagent.nano.few_step import train_few_step
from artiagent.nano.few_step_samples import MASKS, masks_of, repair
from artiagent.nano.few_step_stages import FewStepRecipe
from artiagent.nano.fill import boxes_to_masks, draw_masks, fill_condition, fill_weights, pack_mask, start_from
from artiagent.nano.flux_text import TEXT_TOKENS
from artiagent.nano.flux_transformer import LatentCache, adopt, build_flow
from artiagent.nano.scene_stream import MOST_PARTS, box_of, render_chunk, streaming
from artiagent.nano.scenes import TRAIN_SEEDS, render_scene

FLUX, PARSER = locate("data/weights/nano-flux"), locate("data/weights/nano-parser")
SEED = TRAIN_SEEDS[1_450_000_000]


@given(st.lists(st.tuples(*[st.integers(0, 15)] * 4), min_size=1, max_size=3))
@settings(max_examples=20)
def test_a_mask_is_the_union_of_its_boxes(boxes):
    mask = boxes_to_masks(torch.tensor([boxes], dtype=torch.float32), 16)[0]
    for y in range(16):
        for x in range(16):
            inside = any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)
            assert bool(mask[y, x]) == inside


def test_masks_reach_beyond_the_boxes_and_sometimes_cover_all():
    count = 400
    parts = torch.tensor([40, 40, 56, 60]).repeat(count, MOST_PARTS, 1)
    entities = torch.tensor([20, 20, 100, 100]).repeat(count, 3, 1)
    masks = draw_masks(parts, entities, 128, torch.Generator().manual_seed(0))
    shares = masks.float().mean((1, 2))
    assert 0.02 < (shares == 1).float().mean() < 0.09  # "all" has 5 %
    holds_part = masks[:, 40:60, 40:56].all(-1).all(-1).float().mean()
    assert 0.85 < holds_part < 0.99  # only free rectangles can miss it
    assert (shares > 0).all()


def test_the_condition_is_what_the_pipeline_feeds(trained):
    pipeline = FluxFillPipeline.from_pretrained(trained[0] / "nano-fill")
    chunk = render_chunk(range(SEED, SEED + 2), 128)
    images, masks = torch.from_numpy(chunk.images), torch.zeros(2, 128, 128, dtype=torch.bool)
    masks[0, 10:50, 3:77] = masks[1, 100:, 20:31] = True
    picture = pipeline.image_processor.preprocess(images.permute(0, 3, 1, 2) / 255, height=128, width=128)
    mask = pipeline.mask_processor.preprocess(masks[:, None].float(), height=128, width=128)
    packed, latents = pipeline.prepare_mask_latents(
        mask, picture * (1 - mask), 2, 8, 1, 128, 128, torch.float32, "cpu", torch.Generator().manual_seed(1)
    )
    ours = fill_condition(pipeline.vae, images, masks, torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours, torch.cat([latents, packed], -1))
    weights = fill_weights(ours, channels=32)
    assert weights.max() == 1 and weights.min() == 0.25


def test_pack_mask_keeps_every_pixel():
    masks = torch.rand(3, 16, 24) < 0.5
    packed = pack_mask(masks, 4)
    assert packed.shape == (3, 2 * 3, 64)
    assert torch.equal(packed.sum((1, 2)), masks.sum((1, 2)).float())


class Linear:
    """A flow towards `goal` of the prompt: from x at time t it runs straight to the goal."""

    def __init__(self, goals: dict[int, float]):
        self.goals, self.calls = goals, 0

    def read(self, clip_ids, t5_ids):
        return torch.tensor([self.goals[int(row[0])] for row in t5_ids]), None

    def velocity(self, tokens, time, text, side):
        self.calls += 1
        return (tokens - text[0][:, None, None]) / time[:, None, None]

    def __call__(self, tokens, time, clip_ids, t5_ids, side):
        return self.velocity(tokens, time, self.read(clip_ids, t5_ids), side)


def _prompts(count: int) -> Prompts:
    ids, empty = torch.ones(count, TEXT_TOKENS, dtype=torch.long), torch.zeros(1, TEXT_TOKENS, dtype=torch.long)
    return Prompts(ids, ids, empty, empty)


def test_without_guidance_a_straight_path_is_followed_to_its_goal():
    noise = torch.randn(2, 4, 3)
    states = guided_path(Linear({1: 2.0, 0: -7.0}), noise, _prompts(2), 1.0, side=2)
    for piece in range(PIECES + 1):
        torch.testing.assert_close(states[:, piece], torch.lerp(noise, torch.full_like(noise, 2.0), piece / PIECES))


def test_guidance_overshoots_away_from_the_empty_prompt():
    flow = Linear({1: 2.0, 0: 1.0})
    states = guided_path(flow, torch.zeros(1, 4, 3), _prompts(1), 3.0, side=2, evaluations=2)
    assert flow.calls == 2 * PIECES
    assert (states[:, -1] > 2.0).all()


def test_a_student_that_knows_the_chords_has_no_loss():
    states = torch.stack([torch.full((5, 4, 3), value) for value in (1.0, 0.75, 0.5, 0.25, 0.0)], 1)
    ids = torch.ones(9, TEXT_TOKENS, dtype=torch.long)
    cache = LatentCache(torch.zeros(9, 4, 3), ids, ids, ids[:1], ids[:1], side=2)
    paths = Paths(states.half(), torch.arange(5), None)
    assert chord_loss(Linear({1: 0.0}), cache, paths, 64, torch.Generator().manual_seed(0)) < 1e-5
    assert chord_loss(Linear({1: 1.0}), cache, paths, 64, torch.Generator().manual_seed(0)) > 0.1


def test_recording_ends_at_the_wanted_number_or_in_time():
    def draw():
        return torch.zeros(3, dtype=torch.long), None, torch.zeros(3, PIECES + 1, 1, 1)

    assert len(record_paths(draw, most=7, seconds=60, label="paths").states) == 9
    assert len(record_paths(draw, most=700, seconds=0, label="paths").states) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_hands_over_every_scene_once(workers):
    seeds = range(SEED, SEED + 10)
    with streaming(seeds, 32, workers, chunk=4) as stream:
        chunks = []
        while not stream.exhausted:
            chunks += stream.ready()
    captions = [caption for chunk in chunks for caption in chunk.captions]
    assert sorted(captions) == sorted(render_scene(seed, size=32).caption for seed in seeds)


def test_chunks_hold_the_boxes_of_parts_and_entities():
    scene, chunk = render_scene(SEED), render_chunk(range(SEED, SEED + 1), 128)
    assert {tuple(box) for box in chunk.entities[0]} == {box_of(entity.mask) for entity in scene.entities}
    parts = {box_of(part.mask) for entity in scene.entities for part in entity.parts}
    assert {tuple(box) for box in chunk.parts[0]} == parts


TINY = FewStepRecipe(
    batch=2, steps=2, warmup=1, scenes=6, first_scenes=6, held_out=2, paths=2, judged=2, guidances=(1.5,),
    fill_guidances=(1.5,), single=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """Both folders after two steps in each stage, from nano-FLUX's weights."""
    root = tmp_path_factory.mktemp("few-step")
    out, work = root / "out", root / "work"
    return out, train_few_step(out, work, flux=FLUX, parser=PARSER, recipe=TINY, device="cpu")


def test_four_steps_without_guidance_draw_what_nano_flux_draws(trained):
    out, report = trained
    pipeline = FluxPipeline.from_pretrained(out / "nano-schnell")
    pipeline.set_progress_bar_config(disable=True)
    assert not pipeline.scheduler.config.use_dynamic_shifting and pipeline.scheduler.config.shift == 1.0
    pictures = pipeline(
        ["a red cat standing on grass"] * 2, height=128, width=128, num_inference_steps=4,
        max_sequence_length=TEXT_TOKENS, output_type="np", generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert pictures.shape == (2, 128, 128, 3) and np.isfinite(pictures).all()
    np.testing.assert_allclose(pipeline.scheduler.sigmas.numpy(), [1, 0.75, 0.5, 0.25, 0])
    assert report["schnell"]["step"] == report["fill"]["step"] == 2
    assert json.loads((out / "nano-fill" / "training.json").read_text())["fill_guidance"] == 1.5


def test_both_folders_hold_the_autoencoder_of_nano_flux(trained):
    wanted = (FLUX / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    for name in ("nano-schnell", "nano-fill"):
        assert (trained[0] / name / "vae" / "diffusion_pytorch_model.safetensors").read_bytes() == wanted
        assert sum(path.stat().st_size for path in (trained[0] / name).rglob("*") if path.is_file()) < 9.5e6


def test_a_repair_leaves_what_is_not_masked(trained):
    pipeline = FluxFillPipeline.from_pretrained(trained[0] / "nano-fill")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.transformer.config.in_channels == 32 + 32 + 64 and pipeline.transformer.config.out_channels == 32
    scenes = [render_scene(SEED + number) for number in range(2)]
    images = np.stack([scene.image for scene in scenes])
    for kind in MASKS:
        masks = masks_of(scenes, kind)
        done = repair(pipeline, images, masks, [scene.caption for scene in scenes], TEXT_TOKENS, steps=2)
        assert np.array_equal(done[~masks], images[~masks]) and not np.array_equal(done[masks], images[masks])


def test_a_second_call_repeats_no_stage(trained):
    out, report = trained
    again = train_few_step(out, out.parent / "work", flux=FLUX, parser=PARSER, recipe=TINY, device="cpu")
    assert {key: again[key] for key in ("base", "fill", "schnell_faultless")} == {
        key: report[key] for key in ("base", "fill", "schnell_faultless")
    }


def test_weights_of_another_depth_are_refused(trained):
    work = trained[0].parent / "work"
    with pytest.raises(ValueError, match="other sizes"):
        train_few_step(
            trained[0], work, flux=FLUX, parser=PARSER, recipe=FewStepRecipe(scenes=6, held_out=2), device="cpu"
        )
    pipeline = FluxPipeline.from_pretrained(FLUX)
    with pytest.raises(ValueError, match="width and depth"):
        adopt(build_flow(pipeline.tokenizer, pipeline.tokenizer_2, 32, 0, double=1), FLUX)


def test_a_deeper_flow_and_a_repair_begin_as_what_they_start_from():
    pipeline = FluxPipeline.from_pretrained(FLUX)
    clip, t5 = pipeline.tokenizer, pipeline.tokenizer_2
    same, deep = (adopt(build_flow(clip, t5, 32, 1, single=single), FLUX).eval() for single in (4, 6))
    fill = start_from(build_flow(clip, t5, 32, 2, single=6, conditions=96), deep).eval()
    ids = [tokenizer(["a dog"], padding="max_length", return_tensors="pt").input_ids for tokenizer in (clip, t5)]
    tokens, time = torch.randn(1, 256, 32), torch.tensor([0.4])
    with torch.no_grad():
        wanted = same(tokens, time, *ids, 16)
        torch.testing.assert_close(deep(tokens, time, *ids, 16), wanted)
        torch.testing.assert_close(fill(torch.cat([tokens, torch.rand(1, 256, 96)], -1), time, *ids, 16), wanted)


def test_too_few_scenes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="render more"):
        train_few_step(
            tmp_path, tmp_path, flux=FLUX, parser=PARSER, recipe=FewStepRecipe(scenes=8, held_out=8), device="cpu"
        )


def test_what_distillation_changed_is_carried_over_to_a_teacher_that_learned_on():
    before, student = {"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([1.5, 2.0])}
    after = {"w": torch.tensor([3.0, 1.0])}
    assert carried_over(student, before, after)["w"].tolist() == [3.5, 1.0]
    assert carried_over(student, before, before)["w"].tolist() == student["w"].tolist()
    with pytest.raises(ValueError, match="one architecture"):
        carried_over(student, before, {"v": torch.zeros(2)})
