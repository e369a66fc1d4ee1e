"""Inversion-injection on a random FLUX of the real classes: what must be equal is equal, what must differ differs."""

import numpy as np
import pytest
import torch

from artiagent.config import SynthesisSection
from artiagent.records import CheckpointRef, Injection, PatchMapping
from artiagent.synthesis.backbones import Backbone, load_backbone
from artiagent.synthesis.engine import Engine, keep_background
from artiagent.synthesis.injection import gather_rows, rotate
from tests.synthesis.conftest import CAPTION

GRID = (6, 8)


def injection(targets: list[int], references: list[int], tool: str = "add") -> Injection:
    mapping = PatchMapping(grid=GRID, targets=tuple(targets), references=tuple(references))
    return Injection(tool=tool, entity="dog", entity_id="e", seed=0, mapping=mapping)


@pytest.fixture(scope="module")
def backbone(random_flux: CheckpointRef) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(random_flux, device="cpu", dtype="float32", guidance=1.0, value_blocks=2)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (GRID[0] * 8, GRID[1] * 8, 3), dtype=np.uint8)


def run(backbone: Backbone, image: np.ndarray, batch: list[tuple[Injection, ...]], **settings: object) -> torch.Tensor:
    """Final latents [1 + K, L, C]."""
    engine = Engine(backbone, SynthesisSection(steps=4, **settings))
    inversion = engine.invert(image, CAPTION)
    return engine.inject_latents(inversion, engine.variants(batch, inversion.grid, torch.device("cpu")))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("solver", ["euler", "rf_solver", "fireflow"])
def test_identity_mapping_is_the_twin(backbone: Backbone, image: np.ndarray, solver: str) -> None:
    rows = run(backbone, image, [(injection([5, 6], [5, 6]),)], solver=solver)
    assert difference(rows[1], rows[0]) < 1e-5


@pytest.mark.parametrize("settings", [{"pe_fraction": 0.0}, {"value_fraction": 0.0}, {}])
def test_positions_and_values_each_change_the_targets(
    backbone: Backbone, image: np.ndarray, settings: dict[str, float]
) -> None:
    rows = run(backbone, image, [(injection([9, 10], [30, 31]),)], background="free", value_after="keep", **settings)
    assert difference(rows[1], rows[0]) > 1e-4


def test_nothing_injected_is_nothing_changed(backbone: Backbone, image: np.ndarray) -> None:
    rows = run(backbone, image, [(injection([9], [30]),)], pe_fraction=0.0, value_fraction=0.0, background="free")
    assert difference(rows[1], rows[0]) < 1e-5


def test_variants_in_a_batch_equal_variants_alone(backbone: Backbone, image: np.ndarray) -> None:
    first, second = (injection([1, 2], [40, 41]),), (injection([20], [7], "remove"),)
    together = run(backbone, image, [first, second])
    alone = run(backbone, image, [second])
    assert difference(together[2], alone[1]) < 1e-4


def test_every_tool_of_a_row_has_its_own_windows(backbone: Backbone, image: np.ndarray) -> None:
    fractions = {"add": 1.0, "remove": 1.0, "distort": 0.0, "fuse": 0.5, "benign": 1.0}
    engine = Engine(backbone, SynthesisSection(steps=4, pe_fraction=fractions, value_fraction=fractions))
    batch = [(injection([9], [30]), injection([20], [7], "distort"))]
    variants = engine.variants(batch, GRID, torch.device("cpu"))
    assert variants.pe_fraction[1, [9, 20]].tolist() == [1.0, 0.0]
    assert variants.value_fraction[1, [9, 20, 0]].tolist() == [1.0, 0.0, 1.0]
    assert variants.value_fraction[0].unique().tolist() == [1.0]
    moved, cached = (variants.target & (f > 0.2) for f in (variants.pe_fraction, variants.value_fraction))
    gather, live = engine._gathers(variants, moved, cached | ~variants.target)
    assert gather[1, [9, 20]].tolist() == [30, 20]
    assert live[1, [9, 20], 0, 0].tolist() == [False, True]


def test_a_short_window_changes_less(backbone: Backbone, image: np.ndarray) -> None:
    windows = ({"pe_fraction": f, "value_fraction": f} for f in (1.0, 0.25))
    long, short = (run(backbone, image, [(injection([9], [30], "fuse"),)], **w) for w in windows)
    assert difference(long[1], long[0]) > difference(short[1], short[0]) > 0


def test_the_cache_survives_an_injection(backbone: Backbone, image: np.ndarray) -> None:
    engine = Engine(backbone, SynthesisSection(steps=4))
    inversion = engine.invert(image, CAPTION)
    before = inversion.cache.values.clone()
    assert before.abs().sum() > 0
    engine.inject(inversion, engine.variants([(injection([3], [4]),)], inversion.grid, torch.device("cpu")))
    assert torch.equal(before, inversion.cache.values)


def test_value_cache_holds_the_window_only(backbone: Backbone, image: np.ndarray) -> None:
    engine = Engine(backbone, SynthesisSection(steps=10, value_fraction=0.6, solver="fireflow"))
    cache = engine.invert(image, CAPTION).cache
    assert sorted(cache.slot_of) == [9, 11, 13, 15, 17, 19]  # midpoints of the six steps nearest the noise
    assert cache.filled == set(cache.slot_of)
    assert cache.nbytes == 6 * 2 * 48 * 4 * 32 * 4


@pytest.mark.parametrize("value_after", ["keep", "live", "restore"])
def test_value_after_position_window(backbone: Backbone, image: np.ndarray, value_after: str) -> None:
    rows = run(
        backbone, image, [(injection([9], [30]),)], pe_fraction=0.25, value_fraction=1.0, value_after=value_after
    )
    other = run(backbone, image, [(injection([9], [30]),)], pe_fraction=0.25, value_fraction=1.0, value_after="keep")
    assert (difference(rows[1], other[1]) > 1e-5) == (value_after != "keep")


def test_gathered_rows_equal_replaced_ids(backbone: Backbone) -> None:
    prompt = backbone.embed(CAPTION)
    (cos, sin), text = backbone.rotary(prompt, GRID)
    index = torch.arange(48)[None].clone()
    index[0, 3] = 17
    gathered = gather_rows((cos, sin), index, text)
    ids = backbone._image_ids(GRID)
    ids[3] = ids[17]
    replaced = backbone.pipe.transformer.pos_embed(torch.cat([prompt.ids, ids]))
    torch.testing.assert_close(gathered[0][0], replaced[0])
    x = torch.randn(1, text + 48, 4, 32)
    torch.testing.assert_close(rotate(x, gathered), rotate(x, replaced))


def test_unpatched_call_equals_the_library(backbone: Backbone) -> None:
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    prompt = backbone.embed(CAPTION)
    z = torch.randn(2, 48, 32)
    ours = backbone.velocity(z, 0.4, prompt, GRID)
    saved = dict(backbone.pipe.transformer.attn_processors)
    backbone.pipe.transformer.set_attn_processor(FluxAttnProcessor())
    theirs = backbone.velocity(z, 0.4, prompt, GRID)
    backbone.pipe.transformer.set_attn_processor(saved)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_background_takes_the_twins_latents() -> None:
    z = torch.randn(3, 4, 2)
    region = torch.tensor([[False] * 4, [True, False, False, False], [False] * 4])
    kept = keep_background(z, region)
    assert torch.equal(kept[1, 0], z[1, 0]) and torch.equal(kept[1, 1:], z[0, 1:]) and torch.equal(kept[2], z[0])


def test_foreign_grid_is_refused(backbone: Backbone) -> None:
    engine = Engine(backbone, SynthesisSection())
    with pytest.raises(ValueError, match="grid"):
        engine.variants([(injection([0], [1]),)], (4, 4), torch.device("cpu"))


def test_odd_image_size_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        backbone.grid(60, 64)


def test_too_many_value_blocks_are_refused(random_flux: CheckpointRef) -> None:
    with pytest.raises(ValueError, match="value_blocks=9"):
        load_backbone(random_flux, device="cpu", dtype="float32", guidance=1.0, value_blocks=9)
