"""Grounding DINO of the package groundingdino-py: its network without its loaders, on current transformers.

Knows the published sizes, what may be loaded, and the adapter: the package's constructor wants the name of a text
encoder, downloads it and wraps it in a class that calls methods which transformers 5 removed. Here it gets a tokenizer
and a BERT that takes the package's masks. No configuration file is executed. Does not know captions or boxes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from groundingdino.datasets import transforms
from groundingdino.models.GroundingDINO import groundingdino as package
from groundingdino.models.GroundingDINO.backbone.backbone import Joiner
from groundingdino.models.GroundingDINO.backbone.position_encoding import build_position_encoding
from groundingdino.models.GroundingDINO.backbone.swin_transformer import SwinTransformer
from groundingdino.models.GroundingDINO.transformer import build_transformer
from groundingdino.util import get_tokenlizer
from groundingdino.util.misc import NestedTensor
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerBase

from artiagent.checkpoints import model_name
from artiagent.perception.grounding.phrases import MOST_TOKENS
from artiagent.records import Record
from artiagent.store import file_sha256

CONFIG, WEIGHTS, TEXT_ENCODER = "config.json", "model.safetensors", "text_encoder"
MODEL_TYPE = "groundingdino-py"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, R, G, B
FEATURES = 256  # the package's positional embeddings leave no choice
ARCHITECTURE: dict[str, Any] = {  # GroundingDINO_SwinT_OGC and _SwinB as published, but for what DinoSizes says
    "position_embedding": "sine",
    "pe_temperatureH": 20,
    "pe_temperatureW": 20,
    "pre_norm": False,
    "hidden_dim": FEATURES,
    "dropout": 0.0,
    "query_dim": 4,
    "num_patterns": 0,
    "two_stage_type": "standard",
    "two_stage_bbox_embed_share": False,
    "two_stage_class_embed_share": False,
    "transformer_activation": "relu",
    "dec_pred_bbox_embed_share": True,
    "embed_init_tgt": True,
    "use_text_enhancer": True,
    "use_fusion_layer": True,
    "use_checkpoint": False,  # published: True; recomputing activations is for training
    "use_transformer_ckpt": False,
    "use_text_cross_attention": True,
    "text_dropout": 0.0,
    "fusion_dropout": 0.0,
    "fusion_droppath": 0.1,
    "sub_sentence_present": True,
}
PUBLISHED_SHA256 = {
    "groundingdino_swint_ogc.pth": "3b3ca2563c77c69f651d7bd133e97139c186df06231157a64c507099c52bc799",
    "groundingdino_swinb_cogcoor.pth": "46270f7a822e6906b655b729c90613e48929d0f2bb8b9b76fd10a856f3ac6ab7",
}
LEVELS_OF_BACKBONE = (1, 2, 3)
# In published files beside the network: a buffer of older BERTs, and labels of the denoising task of training.
NOT_LOADED = frozenset({"bert.embeddings.position_ids", "label_enc.weight"})
_CONSTRUCTION = Lock()


class DinoSizes(Record):
    """What differs between networks; the defaults are Swin-T's. ``config.json`` of a folder."""

    model_type: str = MODEL_TYPE
    swin_width: int = 96
    swin_depths: tuple[int, ...] = (2, 2, 6, 2)
    swin_heads: tuple[int, ...] = (3, 6, 12, 24)
    swin_window: int = 7
    feature_levels: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 6
    heads: int = 8
    points: int = 4
    feedforward: int = 2048
    queries: int = 900
    short_side: int = 800  # px, unless the other side would exceed ``long_side``
    long_side: int = 1333


PUBLISHED = {
    "groundingdino_swint_ogc.pth": DinoSizes(),
    "groundingdino_swinb_cogcoor.pth": DinoSizes(
        swin_width=128, swin_depths=(2, 2, 18, 2), swin_heads=(4, 8, 16, 32), swin_window=12
    ),
}


class PackageDino:
    """The `DinoNetwork` of groundingdino-py.

    Args:
        model: with its weights; it is put into evaluation mode.
        sizes: its sizes, of which the images' matter here.
        name: of the weights, for records.
    """

    most_tokens = MOST_TOKENS

    def __init__(self, model: package.GroundingDINO, sizes: DinoSizes, name: str) -> None:
        self.name = f"groundingdino:{name}"
        self.model = model.eval()
        self.tokenizer: PreTrainedTokenizerBase = model.tokenizer
        self._prepare = transforms.Compose([
            transforms.RandomResize([sizes.short_side], max_size=sizes.long_side),  # one size: nothing is random
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ])  # fmt: skip

    def prepare(self, image: np.ndarray) -> Tensor:
        return self._prepare(Image.fromarray(image), None)[0]

    def to(self, device: torch.device) -> PackageDino:
        self.model.to(device)
        return self

    def forward(self, pixels: Tensor, padding: Tensor, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        outputs = self.model(NestedTensor(pixels, padding), captions=list(texts))
        return outputs["pred_logits"], outputs["pred_boxes"]


def load_dino(path: Path, text_encoder: Path | None = None) -> PackageDino:
    """The network with its weights.

    Args:
        path: a published checkpoint file, a folder that holds one (Swin-T goes first), or a folder with ``config.json``
            (`DinoSizes`), ``model.safetensors`` and, below ``text_encoder``, tokenizer and configuration of a BERT.
        text_encoder: tokenizer and configuration of the BERT for files that do not bring theirs. Its weights are never
            read: those of BERT are in the checkpoint, fine-tuned.

    Raises ValueError for other files, for published ones with another digest than the published, and for weights that
    are not those of the network, naming the first.
    """
    checkpoint, sizes, encoder = _parts(path, text_encoder)
    published = PUBLISHED_SHA256.get(checkpoint.name)
    if published and (found := file_sha256(checkpoint)) != published:
        raise ValueError(f"{checkpoint}: its sha256 is {found}, the published one is {published}; fetch it again")
    tokenizer, bert = load_text_encoder(encoder)
    with init_empty_weights(include_buffers=False):
        model = build_dino(sizes, tokenizer, bert)
    load_weights(model, _read_weights(checkpoint), checkpoint)
    return PackageDino(model, sizes, model_name(str(path)))


def build_dino(sizes: DinoSizes, tokenizer: PreTrainedTokenizerBase, bert: BertConfig) -> package.GroundingDINO:
    """A freshly initialised network of the package's own classes."""
    arguments = SimpleNamespace(**ARCHITECTURE, **_named_as_published(sizes))
    swin = SwinTransformer(
        embed_dim=sizes.swin_width, depths=list(sizes.swin_depths), num_heads=list(sizes.swin_heads),
        window_size=sizes.swin_window, out_indices=LEVELS_OF_BACKBONE,
    )  # fmt: skip
    backbone = Joiner(swin, build_position_encoding(arguments))
    backbone.num_channels = [swin.num_features[level] for level in LEVELS_OF_BACKBONE]
    with _given_text_encoder(tokenizer, TextEncoder(bert)):
        model = package.GroundingDINO(
            backbone, build_transformer(arguments), num_queries=sizes.queries, iter_update=True, query_dim=4,
            num_feature_levels=sizes.feature_levels, nheads=sizes.heads, two_stage_type=arguments.two_stage_type,
            two_stage_bbox_embed_share=arguments.two_stage_bbox_embed_share,
            two_stage_class_embed_share=arguments.two_stage_class_embed_share,
        )  # fmt: skip
    for layer in model.transformer.encoder.text_layers:
        layer.register_forward_pre_hook(_masks_by_row, with_kwargs=True)
    return model


class TextEncoder(BertModel):
    """BERT with attention masks [B, T, T] as the package makes them: a term's tokens see each other alone."""

    def __init__(self, config: BertConfig) -> None:
        config._attn_implementation = "sdpa"  # takes bool masks as they are; eager attention would add them
        super().__init__(config)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **inputs: Tensor) -> Any:
        return super().forward(input_ids, attention_mask=attention_mask[:, None], **inputs)


def load_text_encoder(folder: Path) -> tuple[PreTrainedTokenizerBase, BertConfig]:
    """Tokenizer and configuration. Raises ValueError when they are not those of a BERT that knows the separators."""
    tokenizer, config = AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder)
    separators = ("[CLS]", "[SEP]", ".", "?")
    unknown = [
        token for token in separators if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id)
    ]
    if not isinstance(config, BertConfig) or unknown or not tokenizer.is_fast:
        found = f"a tokenizer without {unknown[0]!r}" if unknown else f"a {config.model_type}"
        raise ValueError(f"{folder}: {found}; expected configuration and fast tokenizer of a BERT")
    return tokenizer, config


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], origin: Path) -> None:
    """Put weights into a model, whose own may be on the meta device; every name and shape must fit.

    A prefix ``module.`` is dropped, shared modules may be named once, number types become float32.
    """
    given = {name.removeprefix("module."): tensor for name, tensor in weights.items()}
    own = model.state_dict()
    for names in _shared(model):
        stored = next((given[name] for name in names if name in given), None)
        if stored is not None:
            given |= dict.fromkeys((name for name in names if name not in given), stored)
    missing, foreign = own.keys() - given.keys(), given.keys() - own.keys() - NOT_LOADED
    reshaped = [name for name in own.keys() & given.keys() if own[name].shape != given[name].shape]
    for problem, names in (("lacks", missing), ("has the unknown", foreign), ("has in another shape", reshaped)):
        if names:
            raise ValueError(
                f"{origin}: {problem} {min(names)!r} and {len(names) - 1} more; other sizes or another model"
            )
    fitting = {name: given[name].float() if given[name].is_floating_point() else given[name] for name in own}
    model.load_state_dict(fitting, assign=True)


def _named_as_published(sizes: DinoSizes) -> dict[str, int]:
    return {
        "nheads": sizes.heads, "num_queries": sizes.queries, "dim_feedforward": sizes.feedforward,
        "enc_layers": sizes.encoder_layers, "dec_layers": sizes.decoder_layers,
        "num_feature_levels": sizes.feature_levels, "enc_n_points": sizes.points, "dec_n_points": sizes.points,
    }  # fmt: skip


def _masks_by_row(layer: nn.Module, _: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
    """Masks [B, T, T] -> [B * heads, T, T], a row's heads together, as attention reads them. The layer itself would lay
    out all rows head by head: in a batch of different captions, rows would look through each other's masks."""
    return (), inputs | {"src_mask": inputs["src_mask"].repeat_interleave(layer.nhead, dim=0)}


@contextmanager
def _given_text_encoder(tokenizer: PreTrainedTokenizerBase, bert: TextEncoder) -> Iterator[None]:
    """While it lasts, the package's constructor finds these two instead of downloading by name and wrapping."""
    replaced = (
        (get_tokenlizer, "get_tokenlizer", lambda _: tokenizer),
        (get_tokenlizer, "get_pretrained_language_model", lambda _: bert),
        (package, "BertModelWarper", lambda bert_model: bert_model),
    )
    with _CONSTRUCTION:
        before = [getattr(module, name) for module, name, _ in replaced]
        try:
            for module, name, replacement in replaced:
                setattr(module, name, replacement)
            yield
        finally:
            for (module, name, _), original in zip(replaced, before, strict=True):
                setattr(module, name, original)


def _parts(path: Path, text_encoder: Path | None) -> tuple[Path, DinoSizes, Path]:
    """Weight file, sizes, and the folder of the text encoder."""
    if path.is_dir() and (path / CONFIG).is_file():
        return path / WEIGHTS, _read_sizes(path / CONFIG), path / TEXT_ENCODER
    files = [path] if path.is_file() else [path / name for name in PUBLISHED if (path / name).is_file()]
    if not files or files[0].name not in PUBLISHED:
        raise ValueError(
            f"{path}: expected {' or '.join(PUBLISHED)}, or a folder with {CONFIG}, {WEIGHTS} and {TEXT_ENCODER}"
        )
    if text_encoder is None:
        raise ValueError(f"{path}: a published checkpoint needs tokenizer and configuration of its text encoder")
    return files[0], PUBLISHED[files[0].name], text_encoder


def _read_sizes(path: Path) -> DinoSizes:
    try:
        sizes = DinoSizes.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: not the sizes of a Grounding DINO ({error.errors()[0]['msg']})") from error
    if sizes.model_type != MODEL_TYPE:
        raise ValueError(f"{path}: model_type {sizes.model_type!r}, expected {MODEL_TYPE!r}")
    return sizes


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected the weights of a Grounding DINO")
    if path.suffix == ".safetensors":
        return load_file(path)
    document = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise ValueError(f"{path}: expected a published checkpoint with the weights under 'model'")
    return document["model"]


def _shared(model: nn.Module) -> list[list[str]]:
    """Names of the same parameter, where it has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [several for several in names.values() if len(several) > 1]
