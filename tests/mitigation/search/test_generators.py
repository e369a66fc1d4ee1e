import numpy as np
import pytest
import torch
from diffusers import FluxPipeline

from artiagent.mitigation.generators import open_generator
from artiagent.records import CheckpointRef

PROMPTS = ("a red dog on grass", "a blue cat")
SIZE = 32


def close(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal to rounding: one level at a few pixels."""
    apart = np.abs(first.astype(int) - second.astype(int))
    return bool(apart.max() <= 1 and (apart > 0).mean() < 0.01)


@pytest.mark.parametrize("guidance", [0.0, 3.5])
@pytest.mark.parametrize("folder", ["few_step", "many_step"])
def test_pictures_are_those_of_flux_pipeline(folder: str, guidance: float, request) -> None:
    ref: CheckpointRef = request.getfixturevalue(folder)
    ours = open_generator(ref, size=SIZE, steps=3, guidance=guidance, dtype="float32")
    drawn = ours.generate(PROMPTS, ours.noise([5, 6]))
    theirs = FluxPipeline.from_pretrained(ref.uri, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        list(PROMPTS), negative_prompt=["", ""], true_cfg_scale=guidance, height=SIZE, width=SIZE,
        num_inference_steps=3, max_sequence_length=32, output_type="np",
        generator=[torch.Generator().manual_seed(s) for s in (5, 6)],
    ).images  # fmt: skip
    assert close(drawn, (wanted * 255).round().astype(np.uint8))
    assert drawn.std() > 1


def test_a_seed_gives_one_picture_whatever_the_batch(few_step) -> None:
    generator = open_generator(few_step, size=SIZE, batch=2, dtype="float32")
    alone = generator.generate(PROMPTS[:1], generator.noise([7]))
    noise = generator.noise([3, 7, 4, 9, 1])
    together = generator.generate((PROMPTS[1], PROMPTS[0], *PROMPTS, PROMPTS[0]), noise)
    assert close(alone[0], together[1])
    assert not close(alone[0], together[4])


def test_calls_are_counted_per_picture(few_step, many_step) -> None:
    quick, slow = open_generator(few_step, size=SIZE, batch=4), open_generator(many_step, size=SIZE)
    quick.generate([PROMPTS[0]] * 5, quick.noise(range(5)))
    assert (quick.steps, quick.calls, quick.decoded, quick.calls_per_image) == (4, 20, 5, 4)
    assert (slow.steps, slow.guidance, slow.calls_per_image) == (28, 3.5, 56)


def test_the_last_estimate_is_the_picture(few_step) -> None:
    """At the last step the estimate of x0 and the state at time 0 are the same."""
    generator = open_generator(few_step, size=SIZE, steps=2, dtype="float32")
    latents, _ = generator.step(PROMPTS, generator.noise([1, 2]), 0)
    end, estimate = generator.step(PROMPTS, latents, 1)
    assert torch.allclose(end, estimate, atol=1e-5)


def test_bfloat16_draws_nearly_the_same(few_step) -> None:
    exact, rounded = (open_generator(few_step, size=SIZE, dtype=name) for name in ("float32", "bfloat16"))
    first, second = (g.generate(PROMPTS, g.noise([1, 2])).astype(int) for g in (exact, rounded))
    assert np.abs(first - second).mean() < 0.25 * first.std()


def test_a_prompt_that_cannot_be_read_to_its_end_is_refused(few_step) -> None:
    generator = open_generator(few_step, size=SIZE)
    with pytest.raises(ValueError, match="reads 32"):
        generator.embed(["a red dog " * 20])


def test_unknown_words_are_named(few_step) -> None:
    generator = open_generator(few_step, size=SIZE)
    assert generator.unknown_words("a red dog, on grass") == ()
    assert generator.unknown_words("a red walrus") == ("walrus",)


def test_other_folders_and_sizes_are_refused(few_step, tmp_path) -> None:
    with pytest.raises(ValueError, match="expected a FluxPipeline folder"):
        open_generator(few_step.model_copy(update={"uri": str(tmp_path)}), size=SIZE)
    with pytest.raises(ValueError, match="multiples of 8 px"):
        open_generator(few_step, size=36)
