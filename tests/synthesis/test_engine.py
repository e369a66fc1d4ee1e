"""Inversion-injection on a random FLUX of the real classes: what must be equal is equal, what must differ differs."""

import numpy as np
import pytest
import torch

from artiagent.checkpoints import checkpoint_ref
from artiagent.config import SynthesisSection
from artiagent.nano.scenes import render_scene
from artiagent.records import CheckpointRef, Injection, PatchMapping
from artiagent.synthesis.backbones import Backbone, load_backbone
from artiagent.synthesis.engine import (
    Engine,
    Inversion,
    Variants,
    keep_background,
    pack,
    region_cells,
    row_evaluations,
)  # fmt: skip
from artiagent.synthesis.injection import gather_rows, rotate
from tests.synthesis.conftest import CAPTION

GRID = (6, 8)


def injection(targets: list[int], references: list[int], tool: str = "add") -> Injection:
    mapping = PatchMapping(grid=GRID, targets=tuple(targets), references=tuple(references))
    return Injection(tool=tool, entity="dog", entity_id="e", seed=0, mapping=mapping)


@pytest.fixture(scope="module")
def backbone(random_flux: CheckpointRef) -> Backbone:
    torch.set_num_threads(1)
    return load_backbone(random_flux, SynthesisSection(value_blocks=0.5))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (GRID[0] * 8, GRID[1] * 8, 3), dtype=np.uint8)


def run(backbone: Backbone, image: np.ndarray, batch: list[tuple[Injection, ...]], **settings: object) -> torch.Tensor:
    """Final latents [1 + K, L, C]."""
    engine = Engine(backbone, SynthesisSection(steps=4, **settings))
    inversion = engine.invert(image, backbone.embed([CAPTION])[0])
    return engine.inject_latents(inversion, engine.variants(batch, inversion))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("variant_tokens", ["region", "all"])
@pytest.mark.parametrize("solver", ["euler", "rf_solver", "fireflow"])
def test_identity_mapping_is_the_twin(backbone: Backbone, image: np.ndarray, solver: str, variant_tokens: str) -> None:
    rows = run(backbone, image, [(injection([5, 6], [5, 6]),)], solver=solver, variant_tokens=variant_tokens)
    assert difference(rows[1], rows[0]) < 1e-5


def test_the_twin_of_a_trained_model_is_the_source() -> None:
    """Identity mapping reconstructs what was inverted, the better the higher the order and the more the steps."""
    rendered, generator = render_scene(3), checkpoint_ref("nano-flux", "data/weights/nano-flux")

    def error(solver: str, steps: int) -> float:
        section = SynthesisSection(solver=solver, steps=steps)
        flux = load_backbone(generator, section)
        engine = Engine(flux, section)
        inversion = engine.invert(rendered.image, flux.embed([rendered.caption])[0])
        mapping = PatchMapping(grid=(16, 16), targets=(1,), references=(1,))
        same = Injection(tool="add", entity="dog", entity_id="e", seed=0, mapping=mapping)
        source = flux.encode(rendered.image[None])
        twin = engine.inject_latents(inversion, engine.variants([(same,)], inversion))[:1]
        return float((twin - source).norm() / source.norm())

    fireflow = error("fireflow", 10)
    assert fireflow < 0.03
    assert fireflow < error("fireflow", 5) < error("euler", 5)


@pytest.mark.parametrize("settings", [{"pe_fraction": 0.0}, {"value_fraction": 0.0}, {}])
@pytest.mark.parametrize("variant_tokens", ["region", "all"])
def test_positions_and_values_each_change_the_targets(
    backbone: Backbone, image: np.ndarray, settings: dict[str, float], variant_tokens: str
) -> None:
    batch = [(injection([9, 10], [30, 31]),)]
    rows = run(backbone, image, batch, variant_tokens=variant_tokens, value_after="keep", **settings)
    assert difference(rows[1, [9, 10]], rows[0, [9, 10]]) > 1e-4


def test_nothing_injected_is_nothing_changed(backbone: Backbone, image: np.ndarray) -> None:
    settings = {"pe_fraction": 0.0, "value_fraction": 0.0, "background": "free", "variant_tokens": "all"}
    rows = run(backbone, image, [(injection([9], [30]),)], **settings)
    assert difference(rows[1], rows[0]) < 1e-5


@pytest.mark.parametrize("variant_tokens", ["region", "all"])
def test_variants_in_a_batch_equal_variants_alone(backbone: Backbone, image: np.ndarray, variant_tokens: str) -> None:
    first, second = (injection([1, 2], [40, 41]),), (injection([20], [7], "remove"),)
    together = run(backbone, image, [first, second], variant_tokens=variant_tokens)
    alone = run(backbone, image, [second], variant_tokens=variant_tokens)
    assert difference(together[2], alone[1]) < 1e-4
    assert difference(together[0], alone[0]) < 1e-4


def test_region_tokens_alone_change_what_whole_rows_change(backbone: Backbone, image: np.ndarray) -> None:
    batch = [(injection([9, 10], [30, 31]),), (injection([20, 21], [5, 6], "remove"),)]
    region, whole = (run(backbone, image, batch, variant_tokens=t) for t in ("region", "all"))
    assert difference(region[0], whole[0]) < 1e-4  # the twin does not know how its variants are computed
    outside = ~torch.from_numpy(np.stack([region_cells(b, 1).ravel() for b in batch]))
    for row, kept in enumerate(outside, start=1):
        assert torch.equal(region[row][kept], region[0][kept])
        change, deviation = whole[row] - whole[0], region[row] - whole[row]
        # random weights mix far tokens more than trained ones do; on nano-FLUX the deviation is some 5 % of the change
        assert deviation.norm() < 0.5 * change.norm()


def test_a_region_that_covers_everything_is_a_whole_row(backbone: Backbone, image: np.ndarray) -> None:
    batch = [(injection(list(range(48)), list(range(47, -1, -1))),)]
    region, whole = (run(backbone, image, batch, variant_tokens=t, background="guaranteed") for t in ("region", "all"))
    assert difference(region[0], whole[0]) < 1e-4
    assert (region[1] - whole[1]).norm() < 0.2 * (whole[1] - whole[0]).norm()  # the text tokens still see the twin


def test_every_tool_of_a_row_has_its_own_windows(backbone: Backbone) -> None:
    fractions = {"add": 1.0, "remove": 1.0, "distort": 0.0, "fuse": 0.5, "benign": 1.0}
    engine = Engine(backbone, SynthesisSection(steps=4, pe_fraction=fractions, value_fraction=fractions))
    variants = engine._rows([(injection([9], [30]), injection([20], [7], "distort"))], GRID)
    assert variants.pe_fraction[1, [9, 20]].tolist() == [1.0, 0.0]
    assert variants.value_fraction[1, [9, 20, 0]].tolist() == [1.0, 0.0, 1.0]
    assert variants.value_fraction[0].unique().tolist() == [1.0]
    moved, cached = (variants.target & (f > 0.2) for f in (variants.pe_fraction, variants.value_fraction))
    gather, live = engine._gathers(variants, moved, cached | ~variants.target)
    assert gather[1, 9] == 30
    assert live[1, [9, 20], 0, 0].tolist() == [False, True]


def test_packed_tokens_say_where_they_stand(backbone: Backbone) -> None:
    rows = Engine(backbone, SynthesisSection(feather=0))._rows([(injection([9, 10], [30, 31]),)], GRID)
    packed = pack(rows, text_tokens=3)
    assert packed.own[0, 48:].tolist() == [9, 10] and packed.index[0, 48:].tolist() == [30, 31]
    assert packed.variant[0].tolist() == [0] * 48 + [1] * 2
    keys = packed.packing.keys[0]
    assert keys[3 + 9] == 51 and keys[3 + 11] == 3 + 11 and keys[:3].tolist() == [0, 1, 2]


def test_a_batch_that_does_not_fit_is_halved(
    backbone: Backbone, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = [(injection([i], [i + 8]),) for i in range(4)]
    engine = Engine(backbone, SynthesisSection(steps=2))
    whole = engine.render(image, CAPTION, batch)
    original, sizes = Engine.inject, []

    def small(self: Engine, inversion: Inversion, variants: Variants) -> np.ndarray:
        sizes.append(len(variants.region) - 1)
        if sizes[-1] > 1:
            raise torch.OutOfMemoryError("planted")
        return original(self, inversion, variants)

    monkeypatch.setattr(Engine, "inject", small)
    engine = Engine(backbone, SynthesisSection(steps=2))
    halved = engine.render(image, CAPTION, batch)
    assert sizes == [4, 2, 1, 1, 1, 1] and engine.halvings == 2
    assert [r.batch for r in whole] == [4] * 4 and [r.batch for r in halved] == [1] * 4
    for a, b in zip(whole, halved, strict=True):
        assert np.abs(a.image.astype(int) - b.image).max() <= 1
    engine.render(image, CAPTION, batch)
    assert sizes[6:] == [1, 1, 1, 1]  # the limit is remembered


def test_one_variant_that_does_not_fit_is_an_error(
    backbone: Backbone, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planted(*_: object) -> None:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(Engine, "inject", planted)
    with pytest.raises(torch.OutOfMemoryError):
        Engine(backbone, SynthesisSection(steps=2)).render(image, CAPTION, [(injection([1], [2]),)])


def test_one_inversion_each_gives_the_same_pictures(backbone: Backbone, image: np.ndarray) -> None:
    batch = [(injection([9, 10], [30, 31]),), (injection([20], [5], "remove"),)]
    for tokens in ("region", "all"):
        section = SynthesisSection(steps=3, variant_tokens=tokens)
        shared = Engine(backbone, section).render(image, CAPTION, batch)
        alone = Engine(backbone, section.model_copy(update={"shared_inversion": False})).render(image, CAPTION, batch)
        assert shared[0].twin is shared[1].twin and alone[0].twin is not alone[1].twin
        for a, b in zip(shared, alone, strict=True):
            assert np.abs(a.image.astype(int) - b.image).max() <= 1 and np.abs(a.twin.astype(int) - b.twin).max() <= 1


def test_prompts_are_embedded_once_and_ahead(backbone: Backbone, image: np.ndarray) -> None:
    engine = Engine(backbone, SynthesisSection(steps=2))
    asked: list[list[str]] = []

    def embed(prompts: list[str]) -> list[object]:
        asked.append(list(prompts))
        return original(prompts)

    original, backbone.embed = backbone.embed, embed
    try:
        for prompt in (CAPTION, "a cat", CAPTION):
            engine.render(image, prompt, [(injection([1], [2]),)], ahead=("a cat", CAPTION))
    finally:
        del backbone.embed
    assert asked == [[CAPTION, "a cat"]]


def test_row_evaluations_count_what_the_transformer_saw(backbone: Backbone, image: np.ndarray) -> None:
    batch = [(injection([9, 10], [30, 31]),), (injection([20], [5], "remove"),)]
    for settings in ({}, {"variant_tokens": "all"}, {"shared_inversion": False}, {"solver": "rf_solver"}):
        section = SynthesisSection(steps=3, **settings)
        backbone.state.tokens = 0
        Engine(backbone, section).render(image, CAPTION, batch)
        assert backbone.state.tokens / 48 == pytest.approx(row_evaluations(section, batch))


def test_an_old_inversion_is_refused(backbone: Backbone, image: np.ndarray) -> None:
    engine = Engine(backbone, SynthesisSection(steps=2))
    prompt = backbone.embed([CAPTION])[0]
    old = engine.invert(image, prompt)
    new = engine.invert(image, prompt)
    assert new.cache is old.cache  # one preallocated cache
    with pytest.raises(ValueError, match="overwritten"):
        engine.inject(old, engine.variants([(injection([3], [4]),)], old))


def test_a_short_window_changes_less(backbone: Backbone, image: np.ndarray) -> None:
    windows = ({"pe_fraction": f, "value_fraction": f} for f in (1.0, 0.25))
    long, short = (run(backbone, image, [(injection([9], [30], "fuse"),)], **w) for w in windows)
    assert difference(long[1], long[0]) > difference(short[1], short[0]) > 0


def test_the_cache_survives_an_injection(backbone: Backbone, image: np.ndarray) -> None:
    engine = Engine(backbone, SynthesisSection(steps=4))
    inversion = engine.invert(image, backbone.embed([CAPTION])[0])
    before = inversion.cache.values.clone()
    assert before.abs().sum() > 0
    engine.inject(inversion, engine.variants([(injection([3], [4]),)], inversion))
    assert torch.equal(before, inversion.cache.values)


def test_value_cache_holds_the_window_only(backbone: Backbone, image: np.ndarray) -> None:
    engine = Engine(backbone, SynthesisSection(steps=10, value_fraction=0.6, solver="fireflow"))
    cache = engine.invert(image, backbone.embed([CAPTION])[0]).cache
    assert sorted(cache.slot_of) == [9, 11, 13, 15, 17, 19]  # midpoints of the six steps nearest the noise
    assert cache.slot(20) is None and cache.slot(9).shape == (2, 48, 4, 32)
    assert cache.nbytes == 6 * 2 * 48 * 4 * 32 * 4


@pytest.mark.parametrize("value_after", ["keep", "live", "restore"])
def test_value_after_position_window(backbone: Backbone, image: np.ndarray, value_after: str) -> None:
    rows = run(
        backbone, image, [(injection([9], [30]),)], pe_fraction=0.25, value_fraction=1.0, value_after=value_after
    )
    other = run(backbone, image, [(injection([9], [30]),)], pe_fraction=0.25, value_fraction=1.0, value_after="keep")
    assert (difference(rows[1], other[1]) > 1e-5) == (value_after != "keep")


def test_gathered_rows_equal_replaced_ids(backbone: Backbone) -> None:
    prompt = backbone.embed([CAPTION])[0]
    (cos, sin), text = backbone.rotary(prompt, GRID)
    index = torch.arange(48)[None].clone()
    index[0, 3] = 17
    gathered = gather_rows((cos, sin), index, text)
    ids = backbone._image_ids(GRID)
    ids[3] = ids[17]
    replaced = backbone.pipe.transformer.pos_embed(torch.cat([torch.zeros(text, 3), ids]))
    torch.testing.assert_close(gathered[0][0], replaced[0])
    x = torch.randn(1, text + 48, 4, 32)
    torch.testing.assert_close(rotate(x, gathered), rotate(x, replaced))


def test_unpatched_call_equals_the_library(backbone: Backbone) -> None:
    from diffusers.models.transformers.transformer_flux import FluxAttnProcessor

    prompt = backbone.embed([CAPTION])[0]
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
        engine._rows([(injection([0], [1]),)], (4, 4))


def test_odd_image_size_is_refused(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        backbone.grid(60, 64)
