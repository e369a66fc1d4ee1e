"""nano-FLUX: geometry, text limit, loss convention, resumable loop, and a minuscule training through FluxPipeline."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxInpaintPipeline, FluxPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from artiagent.nano.flux import FluxRecipe, render_scenes, train_flux
from artiagent.nano.flux_export import build_scheduler
from artiagent.nano.flux_text import (
    TEXT_TOKENS,
    build_clip_tokenizer,
    build_t5_tokenizer,
    caption_words,
    check_caption_lengths,
    text_token_limit,
)
from artiagent.nano.flux_transformer import LatentCache, draw_times, pack, position_ids, unpack, velocity_loss
from artiagent.nano.flux_vae import encode_latents, encode_path
from artiagent.nano.loop import Schedule, fit

WORDS = caption_words(["A brown cat with two ears sits on a sofa.", "Two dogs."])


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_packing_is_flux_packing_and_invertible(rows, columns, batch):
    latents = torch.randn(batch, 8, 2 * rows, 2 * columns)
    tokens = pack(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, batch, 8, 2 * rows, 2 * columns))
    assert torch.equal(unpack(tokens, 2 * rows, 2 * columns), latents)
    ids = FluxPipeline._prepare_latent_image_ids(batch, rows, columns, "cpu", torch.float32)
    assert torch.equal(position_ids(rows, columns), ids)


def test_times_follow_the_schedule_of_the_exported_scheduler():
    scheduler = build_scheduler()
    sigmas = 1 - np.arange(10) / 10
    scheduler.set_timesteps(sigmas=sigmas, mu=0.5)
    shifted = np.exp(0.5) / (np.exp(0.5) + 1 / sigmas - 1)
    np.testing.assert_allclose(scheduler.sigmas[:-1].numpy(), shifted, rtol=1e-5)
    times = draw_times(20_000, torch.Generator().manual_seed(0))
    assert times.min() > 0 and times.max() < 1
    # The median of the logit-normal, .5, moves to the shifted .5.
    assert abs(times.median().item() - np.exp(0.5) / (np.exp(0.5) + 1)) < 0.01


class Oracle(nn.Module):
    """Knows the data, so that it can recover noise - data from a point of the straight path."""

    def __init__(self, data: torch.Tensor):
        super().__init__()
        self.transformer, self.data, self.prompts = nn.Linear(1, 1), data, []
        self.transformer.device = torch.device("cpu")

    def forward(self, tokens, time, clip_ids, t5_ids, side):
        self.prompts += t5_ids[:, 0].tolist()
        return (tokens - self.data) / time[:, None, None]


def test_velocity_points_from_data_to_noise_and_captions_drop_out():
    data = torch.randn(1, 4, 32)
    ids = torch.ones(1, TEXT_TOKENS, dtype=torch.long)
    cache = LatentCache(data, ids, ids, 0 * ids, 0 * ids, side=2)
    oracle = Oracle(data)
    loss = velocity_loss(oracle, cache, torch.zeros(2000, dtype=torch.long), torch.Generator().manual_seed(1))
    assert loss < 1e-6
    assert 0.07 < oracle.prompts.count(0) / 2000 < 0.13


def test_every_caption_word_is_one_token_and_others_fall_apart():
    for tokenizer in (build_clip_tokenizer(WORDS), build_t5_tokenizer(WORDS)):
        marks = len(tokenizer("").input_ids)
        for word in WORDS:
            assert len(tokenizer(word).input_ids) == marks + 1
        unknown = tokenizer("zebra").input_ids
        assert len(unknown) > marks + 1
        assert tokenizer.decode(unknown, skip_special_tokens=True).replace(" ", "") == "zebra"


def test_captions_beyond_the_limit_are_refused():
    tokenizer = build_t5_tokenizer(WORDS)
    check_caption_lengths(tokenizer, ["cat " * (TEXT_TOKENS - 1)])
    with pytest.raises(ValueError, match="33 tokens"):
        check_caption_lengths(tokenizer, ["cat " * TEXT_TOKENS])
    with pytest.raises(ValueError, match="no word"):
        caption_words(["", "12"])


def test_text_limit_is_read_from_the_folder(tmp_path: Path):
    with pytest.raises(ValueError, match="FluxPipeline folder"):
        text_token_limit(tmp_path)
    config = tmp_path / "tokenizer_2" / "tokenizer_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"model_max_length": 77}))
    assert text_token_limit(tmp_path) == 77
    config.write_text(json.dumps({"model_max_length": 10**30}))
    with pytest.raises(ValueError, match="1 to 512"):
        text_token_limit(tmp_path)


def _regress(path: Path, *, kill_at: int | None = None) -> tuple[dict[str, torch.Tensor], int, list[int]]:
    torch.manual_seed(0)
    model, drawn = nn.Linear(3, 1), []

    def loss_of(model: nn.Module, generator: torch.Generator, fraction: float) -> torch.Tensor:
        if kill_at is not None and len(drawn) == kill_at:
            raise KeyboardInterrupt
        inputs = torch.randn(8, 3, generator=generator)
        drawn.append(round(fraction * 6))
        return (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    schedule = Schedule(seconds=3600, learning_rate=0.1, batch=8, steps=6, warmup=2, save_seconds=0)
    ema, progress = fit(model, loss_of, schedule, path, seed=3, label="regression")
    return dict(model.named_parameters()) | {f"ema.{k}": v for k, v in ema.named_parameters()}, progress.step, drawn


def test_a_killed_training_resumes_at_the_same_step_with_equal_weights(tmp_path: Path):
    straight, steps, _ = _regress(tmp_path / "straight.safetensors")
    with pytest.raises(KeyboardInterrupt):
        _regress(tmp_path / "killed.safetensors", kill_at=4)
    resumed, resumed_steps, drawn = _regress(tmp_path / "killed.safetensors")
    assert steps == resumed_steps == 6
    assert drawn == [4, 5]
    for name, value in straight.items():
        assert torch.equal(value, resumed[name]), name


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    _regress(path)
    schedule = Schedule(seconds=1, learning_rate=0.1, batch=1, steps=1)
    with pytest.raises(ValueError, match="another recipe"):
        fit(nn.Linear(5, 1), lambda *_: None, schedule, path, seed=0, label="other")


TINY = FluxRecipe(
    vae=Schedule(seconds=1, learning_rate=2e-3, batch=4, steps=3, warmup=1),
    flow=Schedule(seconds=1, learning_rate=1e-3, batch=4, steps=3, warmup=1),
    size=64,
    scenes=12,
    vae_scenes=6,
    held_out=4,
    channels=(8, 8, 8),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict]:
    """A FluxPipeline folder after a handful of steps on 64 px scenes."""
    root = tmp_path_factory.mktemp("nano-flux")
    return root / "out", train_flux(root / "out", root / "work", recipe=TINY)


def test_the_folder_round_trips_through_flux_pipeline(trained):
    folder, report = trained
    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 10e6
    assert {component.dtype for component in (pipeline.vae, pipeline.transformer, pipeline.text_encoder_2)} == {
        torch.float32
    }
    assert 2 * pipeline.vae_scale_factor == 8
    assert pipeline.tokenizer_max_length == text_token_limit(folder) == TEXT_TOKENS
    pictures = [_generate(pipeline, caption) for caption in ("a red cat", "a red cat", "a blue car")]
    assert pictures[0].shape == (64, 64, 3)
    assert np.array_equal(pictures[0], pictures[1])
    assert report["flow"]["step"] == 3 and report["vae"]["step"] == 3
    assert json.loads((folder / "training.json").read_text())["flow"]["curve"][-1]["held_out_loss"] > 0


def test_text_encoder_weights_carry_the_names_that_every_version_reads(trained):
    stored = load_file(trained[0] / "text_encoder" / "model.safetensors")
    assert all(name.startswith("text_model.") for name in stored)
    loaded = FluxPipeline.from_pretrained(trained[0]).text_encoder.state_dict()
    for name, value in stored.items():
        assert torch.equal(value.float(), loaded[name.removeprefix("text_model.")]), name


def _generate(pipeline: FluxPipeline, caption: str) -> np.ndarray:
    result = pipeline(
        caption,
        height=64,
        width=64,
        num_inference_steps=2,
        max_sequence_length=TEXT_TOKENS,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    )
    return result.images[0]


def test_the_folder_feeds_the_inpainting_pipeline(trained):
    pipeline = FluxInpaintPipeline.from_pretrained(trained[0])
    pipeline.set_progress_bar_config(disable=True)
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 16:40, 16:40] = 1
    result = pipeline(
        "a cat", image=image, mask_image=mask, height=64, width=64, num_inference_steps=3, strength=0.7,
        max_sequence_length=TEXT_TOKENS, output_type="np",
    )  # fmt: skip
    assert result.images.shape == (1, 64, 64, 3) and np.isfinite(result.images).all()


def test_encode_path_is_one_round_trip_and_names_bad_input(trained):
    round_trip = encode_path(trained[0])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3), dtype=np.uint8)
    once = round_trip(images)
    assert once.shape == images.shape and once.dtype == np.uint8
    # The batch size may change the last bits of a product, hence one grey level.
    assert np.abs(once[:1].astype(int) - round_trip(images[:1])).max() <= 1
    with pytest.raises(ValueError, match="uint8"):
        round_trip(images.astype(np.float32))
    with pytest.raises(ValueError, match="multiples of 4"):
        round_trip(images[:, :31])


def test_latents_have_unit_deviation(trained):
    pipeline = FluxPipeline.from_pretrained(trained[0])
    latents = encode_latents(pipeline.vae, render_scenes(range(6), 64)[0])
    assert latents.shape[1:] == (8, 16, 16)
    assert abs(latents.mean()) < 0.05 and abs(latents.std() - 1) < 0.05


def test_a_second_call_resumes_and_repeats_nothing(trained):
    folder, report = trained
    before = (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
    again = train_flux(folder, folder.parent / "work", recipe=TINY)
    assert again["flow"] == report["flow"] and again["vae"] == report["vae"]
    assert (folder / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes() == before
