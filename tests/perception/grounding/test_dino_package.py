"""groundingdino-py through the adapter: published names, weights in and out, and the same answers as transformers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from groundingdino.config import GroundingDINO_SwinB_cfg, GroundingDINO_SwinT_OGC
from groundingdino.models.GroundingDINO import groundingdino as package
from groundingdino.util import get_tokenlizer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    SwinConfig,
)

from artiagent.config import DetectionSection
from artiagent.perception.grounding import dino_package as module
from artiagent.perception.grounding.dino import DinoDetector, canvas
from artiagent.perception.grounding.dino_package import PUBLISHED, DinoSizes, build_dino, load_dino, load_weights
from artiagent.perception.grounding.transformers_models import TransformersDino

Shapes = dict[str, torch.Size]
BERT = BertConfig()  # google-bert/bert-base-uncased
PUBLISHED_CONFIGS = dict(zip(PUBLISHED, (GroundingDINO_SwinT_OGC, GroundingDINO_SwinB_cfg), strict=True))


@pytest.fixture(scope="module")
def detector(dino_folder: Path) -> DinoDetector:
    section = DetectionSection(box_threshold=0, text_threshold=0, device="cpu", threads=1, batch=4)
    return DinoDetector(load_dino(dino_folder), section)


@pytest.mark.parametrize("name", PUBLISHED)
def test_full_size_architectures_are_the_published_ones(name: str, bert_tokenizer: BertTokenizer) -> None:
    with init_empty_weights(include_buffers=False):
        ours = build_dino(PUBLISHED[name], bert_tokenizer, BERT)
    arguments = SimpleNamespace(**{k: v for k, v in vars(PUBLISHED_CONFIGS[name]).items() if not k.startswith("_")})
    with (
        init_empty_weights(include_buffers=False),
        module._given_text_encoder(bert_tokenizer, module.TextEncoder(BERT)),
    ):
        theirs = package.build_groundingdino(arguments)
    assert shapes(ours) == shapes(theirs)
    assert all(parameter.is_meta for parameter in ours.parameters())
    assert {"bert.embeddings.word_embeddings.weight", "transformer.level_embed", "input_proj.3.0.weight"} <= {
        *shapes(ours)
    }


def test_our_settings_are_those_of_the_published_configuration() -> None:
    theirs = vars(GroundingDINO_SwinT_OGC)
    ours = module.ARCHITECTURE | module._named_as_published(DinoSizes())
    different = {name: (value, theirs[name]) for name, value in ours.items() if theirs[name] != value}
    assert different == {"use_checkpoint": (False, True), "use_transformer_ckpt": (False, True)}  # of training alone
    assert tuple(theirs["return_interm_indices"]) == module.LEVELS_OF_BACKBONE


def test_the_swin_b_has_as_many_tensors_as_the_published_file(bert_tokenizer: BertTokenizer) -> None:
    """groundingdino_swinb_cogcoor.pth holds 1108."""
    with init_empty_weights(include_buffers=False):
        model = build_dino(PUBLISHED["groundingdino_swinb_cogcoor.pth"], bert_tokenizer, BERT)
    assert len({*model.state_dict()} | module.NOT_LOADED) == 1108


def test_construction_leaves_the_package_as_it_was(bert_tokenizer: BertTokenizer) -> None:
    before = get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model, package.BertModelWarper
    with pytest.raises(AssertionError), init_empty_weights():
        build_dino(DinoSizes(feature_levels=1), bert_tokenizer, BERT)  # refused by the package
    after = get_tokenlizer.get_tokenlizer, get_tokenlizer.get_pretrained_language_model, package.BertModelWarper
    assert before == after


def test_a_term_reads_itself_alone(detector: DinoDetector) -> None:
    """Masks and positions by term reach BERT: a term's encoding does not depend on its neighbours."""
    model, tokenizer = detector.network.model, detector.network.tokenizer

    def encoded(text: str) -> Tensor:
        tokens = tokenizer([text], return_tensors="pt")
        mask, positions, _ = package.generate_masks_with_special_tokens_and_transfer_map(
            tokens, model.specical_tokens, tokenizer
        )
        with torch.inference_mode():
            return model.bert(
                input_ids=tokens.input_ids, token_type_ids=tokens.token_type_ids, attention_mask=mask,
                position_ids=positions,
            )["last_hidden_state"][0]  # fmt: skip

    first, second = encoded("cat . dog tail ."), encoded("dog tail . bear . cat .")
    assert torch.allclose(first[3:6], second[1:4], atol=1e-6)
    assert torch.allclose(first[1:3], second[6:8], atol=1e-6)
    assert not torch.allclose(first[3], second[6], atol=1e-2)


def test_a_batch_equals_its_images_one_by_one(
    detector: DinoDetector, noise: list[np.ndarray], terms: list[list[str]]
) -> None:
    together = detector.detect(noise, terms)
    assert canvas(detector.network.prepare(noise[0])) == canvas(detector.network.prepare(noise[2]))
    for image, names, found in zip(noise, terms, together, strict=True):
        (alone,) = detector.detect([image], [names])
        assert [d.phrase for d in alone] == [d.phrase for d in found] and len(found) == 12
        assert np.allclose([d.box for d in alone], [d.box for d in found], atol=1e-3)
        assert np.allclose([d.score for d in alone], [d.score for d in found], atol=1e-5)


def test_a_long_vocabulary_takes_several_captions(detector: DinoDetector, noise: list[np.ndarray]) -> None:
    (once,), (twice,) = detector.detect(noise[:1], [["dog"]]), detector.detect(noise[:1], [["dog", "cat"]])
    network = SimpleNamespace(
        **vars(detector.network), prepare=detector.network.prepare, forward=detector.network.forward
    )
    network.to, network.most_tokens = lambda _: network, 4  # [CLS] dog . [SEP]
    (split,) = DinoDetector(network, detector.section).detect(noise[:1], [["dog", "cat"]])
    assert len(split) == 2 * len(twice) and [d.phrase for d in split] == ["dog"] * 12 + ["cat"] * 12
    assert np.allclose([d.box for d in split[:12]], [d.box for d in once], atol=1e-3)


def test_bfloat16_is_what_it_computes_in(detector: DinoDetector, noise: list[np.ndarray]) -> None:
    narrow = DinoDetector(detector.network, detector.section.model_copy(update={"dtype": "bfloat16"}))
    seen: list[torch.dtype] = []
    layer = detector.network.model.feat_map
    hook = layer.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    (wide,), (found,) = detector.detect(noise[:1], [["dog"]]), narrow.detect(noise[:1], [["dog"]])
    hook.remove()
    assert seen == [torch.float32, torch.bfloat16]
    assert len(found) == len(wide) and found != wide and np.isfinite([d.box for d in found]).all()


def test_a_network_that_computes_nonsense_is_an_error(dino_folder: Path, noise: list[np.ndarray]) -> None:
    network = load_dino(dino_folder)
    with torch.no_grad():
        network.model.feat_map.weight.fill_(float("nan"))
    section = DetectionSection(device="cpu", threads=1)
    with pytest.raises(ValueError, match="not a number.*float32"):
        DinoDetector(network, section).detect(noise[:1], [["dog"]])


def test_images_are_red_green_blue_as_in_training(detector: DinoDetector) -> None:
    red = np.zeros((60, 80, 3), dtype=np.uint8)
    red[..., 0] = 255
    prepared = detector.network.prepare(red)
    assert tuple(prepared.shape) == (3, 96, 128)
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    assert prepared.mean(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-5)
    assert tuple(detector.network.prepare(np.zeros((50, 200, 3), np.uint8)).shape) == (3, 40, 160)  # the longer side


def test_published_names_load_with_their_prefix(dino_folder: Path, detector: DinoDetector, tmp_path: Path) -> None:
    """As published: below "model", prefix "module.", every alias written out, two tensors that no network has."""
    own = detector.network.model.state_dict()
    extra = {"bert.embeddings.position_ids": torch.arange(4), "label_enc.weight": torch.ones(3)}
    path = tmp_path / "published.pth"
    torch.save({"model": {f"module.{name}": tensor for name, tensor in (own | extra).items()}}, path)
    with init_empty_weights(include_buffers=False):
        model = build_dino(
            module._read_sizes(dino_folder / "config.json"), *module.load_text_encoder(dino_folder / "text_encoder")
        )
    load_weights(model, module._read_weights(path), path)
    assert all(torch.equal(tensor, own[name]) for name, tensor in model.state_dict().items())


def test_weights_that_do_not_fit_are_named(dino_folder: Path, detector: DinoDetector) -> None:
    weights, model = load_file(dino_folder / "model.safetensors"), detector.network.model
    name = "transformer.enc_output.weight"

    def refused(changed: dict[str, Tensor]) -> str:
        with pytest.raises(ValueError, match="other sizes or another model") as caught:
            load_weights(model, changed, Path("w.pth"))
        return str(caught.value)

    assert f"lacks '{name}'" in refused({k: v for k, v in weights.items() if k != name})
    assert "has the unknown 'extra'" in refused(weights | {"extra": torch.ones(1)})
    assert f"has in another shape '{name}'" in refused(weights | {name: torch.ones(2, 2)})


def test_files_that_are_no_grounding_dino(dino_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="groundingdino_swint_ogc.pth or"):
        load_dino(tmp_path)
    published = tmp_path / "groundingdino_swint_ogc.pth"
    published.write_bytes(b"not these weights")
    with pytest.raises(ValueError, match="needs tokenizer"):
        load_dino(published)
    with pytest.raises(ValueError, match="sha256 is .* the published one is 3b3ca256"):
        load_dino(tmp_path, dino_folder / "text_encoder")
    folder = shutil.copytree(dino_folder, tmp_path / "folder")
    (folder / "config.json").write_text(json.dumps({"model_type": "other"}))
    with pytest.raises(ValueError, match="model_type 'other', expected 'groundingdino-py'"):
        load_dino(folder)
    (folder / "config.json").write_text(json.dumps({"width": 3}))
    with pytest.raises(ValueError, match="config.json: not the sizes"):
        load_dino(folder)


def test_another_text_encoder_is_refused(tmp_path: Path, bert_config: BertConfig) -> None:
    BertTokenizer(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, ".": 5}).save_pretrained(tmp_path)
    bert_config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without '\\?'; expected"):
        module.load_text_encoder(tmp_path)


def test_both_implementations_answer_alike(
    detector: DinoDetector, bert_tokenizer: BertTokenizer, tmp_path: Path, noise: list[np.ndarray],
    terms: list[list[str]], everything: DetectionSection,
) -> None:  # fmt: skip
    """The same weights in groundingdino-py and in transformers: text masks, padding, coordinates and all."""
    model = GroundingDinoForObjectDetection(transformers_config(detector.network.model))
    mapped = transformers_names(detector.network.model.state_dict())
    missing, foreign = model.load_state_dict(mapped, strict=False)
    assert not foreign and {*missing} == UNUSED_BY_TRANSFORMERS
    for part in (model, bert_tokenizer, GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 160})):
        part.save_pretrained(tmp_path)
    other = DinoDetector(TransformersDino(tmp_path), everything)
    other.network.prepare = detector.network.prepare  # the two resize with different libraries
    for ours, theirs in zip(detector.detect(noise, terms), other.detect(noise, terms), strict=True):
        assert [d.phrase for d in ours] == [d.phrase for d in theirs]
        assert np.allclose([d.box for d in ours], [d.box for d in theirs], atol=1e-2)
        assert np.allclose([d.score for d in ours], [d.score for d in theirs], atol=1e-4)


UNUSED_BY_TRANSFORMERS = {
    "model.backbone.conv_encoder.model.swin.layernorm.weight",
    "model.backbone.conv_encoder.model.swin.layernorm.bias",
}
RULES = (
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^backbone\.0\.patch_embed\.proj\.", "SWIN.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", "SWIN.embeddings.norm."),
    (r"^backbone\.0\.norm([123])\.", lambda m: f"NORMS.stage{int(m[1]) + 1}."),
    (r"^backbone\.0\.layers\.", "SWIN.encoder.layers."),
    (r"(SWIN.*)\.norm1\.", r"\1.layernorm_before."),
    (r"(SWIN.*)\.norm2\.", r"\1.layernorm_after."),
    (r"(SWIN.*)\.attn\.proj\.", r"\1.attention.o_proj."),
    (r"(SWIN.*)\.attn\.relative", r"\1.attention.relative_position_bias.relative"),
    (r"(SWIN.*)\.attn\.([qkv])\.", r"\1.attention.\2_proj."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"^transformer\.", "model."),
    (r"(text_enhancer.*)\.norm1\.", r"\1.layer_norm_before."),
    (r"(text_enhancer.*)\.norm2\.", r"\1.layer_norm_after."),
    (r"(deformable_layer)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(deformable_layer)\.norm2\.", r"\1.final_layer_norm."),
    (r"(decoder.*)\.norm1\.", r"\1.encoder_attn_layer_norm."),
    (r"(decoder.*)\.norm2\.", r"\1.self_attn_layer_norm."),
    (r"(decoder.*)\.norm3\.", r"\1.final_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.ca_text\.", ".encoder_attn_text."),
    (r"\.catext_norm\.", ".encoder_attn_text_layer_norm."),
    (r"(model\.(?:en|de)coder\.layers.*)\.linear([12])\.", r"\1.fc\2."),
    (r"\.gamma_v$", ".vision_param"),
    (r"\.gamma_l$", ".text_param"),
    (r"\.layer_norm_v\.", ".layer_norm_vision."),
    (r"\.layer_norm_l\.", ".layer_norm_text."),
    (r"(fusion_layer\.attn\..*)\bv_proj\.", r"\1vision_proj."),
    (r"(fusion_layer\.attn\..*)\bl_proj\.", r"\1text_proj."),
    (r"(values|out)_v_proj\.", r"\1_vision_proj."),
    (r"(values|out)_l_proj\.", r"\1_text_proj."),
    ("SWIN", "model.backbone.conv_encoder.model.swin"),
    ("NORMS", "model.backbone.conv_encoder.model.hidden_states_norms"),
)


def transformers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of groundingdino-py under the names of transformers."""
    mapped = {}
    for name, tensor in _unpacked(state).items():
        renamed = name
        for pattern, replacement in RULES:
            renamed = re.sub(pattern, replacement, renamed)
        mapped[renamed] = tensor
    return mapped


def transformers_config(model: package.GroundingDINO) -> GroundingDinoConfig:
    swin = model.backbone[0]
    return GroundingDinoConfig(
        backbone_config=SwinConfig(
            embed_dim=swin.embed_dim, depths=[len(layer.blocks) for layer in swin.layers],
            num_heads=[layer.blocks[0].num_heads for layer in swin.layers], window_size=swin.layers[0].window_size,
            out_indices=[2, 3, 4], out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=BertConfig(**model.bert.config.to_diff_dict()), num_queries=model.num_queries,
        encoder_layers=len(model.transformer.encoder.layers), decoder_layers=len(model.transformer.decoder.layers),
        encoder_ffn_dim=64, decoder_ffn_dim=64,
    )  # fmt: skip


def _unpacked(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joint projections of query, key and value apart; constants and what is never asked left out."""
    apart = {}
    for name, tensor in state.items():
        if name.endswith("relative_position_index") or name.startswith("bert.pooler"):
            continue
        if match := re.fullmatch(r"(.*)\.(?:in_proj_|qkv\.)(weight|bias)", name):
            parts = ("q", "k", "v") if "qkv" in name else ("query", "key", "value")
            apart |= {f"{match[1]}.{p}.{match[2]}": t for p, t in zip(parts, tensor.chunk(3), strict=True)}
        else:
            apart[name] = tensor
    return apart


def shapes(model: nn.Module) -> Shapes:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
