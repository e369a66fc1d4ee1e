"""Masks from boxes with the package segment-anything: published checkpoints, or a folder of any size of the same net.

Knows the geometry of SAM (longest side scaled to the network's, padding at right and bottom) and what may be loaded.
Does not know detectors, names or linking. A box is (x0, y0, x1, y1) in pixels of the image, x1 and y1 exclusive, which
is also SAM's own order (x before y); masks are [H, W], rows first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from artiagent.checkpoints import locate, model_name
from artiagent.devices import torch_device, torch_dtype
from artiagent.records import Record
from artiagent.store import content_sha256

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MODEL_TYPE = "segment-anything"


class SamSizes(Record):
    """Architecture of a Sam, ``config.json`` of a folder; the defaults are what the published checkpoints share."""

    model_type: str = MODEL_TYPE
    image_size: int = 1024  # px, both sides of what the network sees
    patch_size: int = 16
    embed_dim: int
    depth: int
    num_heads: int
    global_attention: tuple[int, ...]  # blocks that see the whole image; the others see windows
    window_size: int = 14  # tokens a side
    out_channels: int = 256  # of the image embedding, the prompts and the decoder
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    multimask_outputs: int = 3  # masks for ambiguous prompts, beside the one for boxes
    mask_channels: int = 16


PUBLISHED = {
    "sam_vit_h_4b8939.pth": SamSizes(embed_dim=1280, depth=32, num_heads=16, global_attention=(7, 15, 23, 31)),
    "sam_vit_l_0b3195.pth": SamSizes(embed_dim=1024, depth=24, num_heads=16, global_attention=(5, 11, 17, 23)),
    "sam_vit_b_01ec64.pth": SamSizes(embed_dim=768, depth=12, num_heads=12, global_attention=(2, 5, 8, 11)),
}
PUBLISHED_SHA256 = {
    "sam_vit_h_4b8939.pth": "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    "sam_vit_l_0b3195.pth": "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
}


def build_sam(sizes: SamSizes) -> Sam:
    """A freshly initialised Sam of segment-anything's own classes."""
    side = sizes.image_size // sizes.patch_size
    encoder = ImageEncoderViT(
        img_size=sizes.image_size, patch_size=sizes.patch_size, embed_dim=sizes.embed_dim, depth=sizes.depth,
        num_heads=sizes.num_heads, out_chans=sizes.out_channels, use_rel_pos=True, window_size=sizes.window_size,
        global_attn_indexes=sizes.global_attention, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(
        embed_dim=sizes.out_channels, image_embedding_size=(side, side),
        input_image_size=(sizes.image_size, sizes.image_size), mask_in_chans=sizes.mask_channels,
    )  # fmt: skip
    decoder = MaskDecoder(
        num_multimask_outputs=sizes.multimask_outputs, transformer_dim=sizes.out_channels,
        transformer=TwoWayTransformer(
            depth=sizes.decoder_depth, embedding_dim=sizes.out_channels, mlp_dim=sizes.decoder_mlp,
            num_heads=sizes.decoder_heads,
        ),
        iou_head_depth=3, iou_head_hidden_dim=sizes.out_channels,
    )  # fmt: skip
    return Sam(encoder, prompts, decoder)


class SamSegmenter:
    """A `Segmenter`: one pass of the image encoder per image, one of the prompt encoder and mask decoder per image with
    all its boxes.

    Args:
        location: folder (``config.json`` as `SamSizes`, ``model.safetensors``), a published checkpoint file under its
            published name, or a hub id of such a folder.
        sha256: expected digest of the file, or of the folder as in records (`artiagent.store.folder_sha256`); a
            published file is checked against the published digest anyway.
        device: "auto", "cpu", "cuda", "cuda:1"...
        dtype: "float32" or "bfloat16", of the image encoder's products (autocast).
        batch: images per pass of the image encoder.

    Raises ValueError for a location that holds something else, a wrong digest or a wrong ``config.json``.
    """

    def __init__(
        self, location: str, sha256: str | None = None, device: str = "auto", dtype: str = "float32", batch: int = 4
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch {batch}: expected at least 1")
        place = locate(location)
        self.name = f"sam:{model_name(str(place))}"
        self.batch, self.device, self.dtype = batch, torch_device(device), torch_dtype(dtype)
        self.sam = load_sam(place, sha256).to(self.device).eval()
        self.side = self.sam.image_encoder.img_size
        self._resize = ResizeLongestSide(self.side)

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Masks bool [n, H, W] for the boxes of every image.

        Args:
            images: uint8 [H, W, 3], RGB, of any sizes.
            boxes: float [n, 4] per image: (x0, y0, x1, y1) in its pixels, x1 and y1 exclusive. No box, no mask.
        """
        if len(images) != len(boxes):
            raise ValueError(f"{len(images)} images for {len(boxes)} lists of boxes; expected one list per image")
        masks = [np.zeros((len(found), *image.shape[:2]), bool) for image, found in zip(images, boxes, strict=True)]
        wanted = [index for index, found in enumerate(boxes) if len(found)]
        for start in range(0, len(wanted), self.batch):
            chosen = wanted[start : start + self.batch]
            for index, embedding in zip(chosen, self._embed([images[i] for i in chosen]), strict=True):
                masks[index] = self._decode(embedding, np.asarray(boxes[index], np.float32), images[index].shape[:2])
        return masks

    @torch.inference_mode()
    def _embed(self, images: Sequence[np.ndarray]) -> Tensor:
        """[B, C, h, w] of images scaled to the network's size and padded at right and bottom."""
        scaled = (torch.from_numpy(self._resize.apply_image(image)).permute(2, 0, 1) for image in images)
        pixels = torch.stack([self.sam.preprocess(image.to(self.device).float()) for image in scaled])
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.sam.image_encoder(pixels)

    @torch.inference_mode()
    def _decode(self, embedding: Tensor, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """bool [n, H, W] from the embedding [C, h, w] of an image of `size` (H, W)."""
        scaled = torch.from_numpy(self._resize.apply_boxes(boxes, size)).to(self.device, torch.float32)
        sparse, dense = self.sam.prompt_encoder(points=None, boxes=scaled, masks=None)
        logits, _ = self.sam.mask_decoder(
            image_embeddings=embedding[None].float(), image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=dense, multimask_output=False,
        )  # fmt: skip
        shown = self._resize.get_preprocess_shape(*size, self.side)
        full = self.sam.postprocess_masks(logits, shown, size)[:, 0]
        return (full > self.sam.mask_threshold).cpu().numpy()


def load_sam(place: Path, sha256: str | None = None) -> Sam:
    """The Sam of a folder or of a published checkpoint file; see `SamSegmenter`."""
    folder = place.is_dir()
    sizes = _sizes_of_folder(place) if folder else _sizes_of_file(place)
    _check_digest(place, sha256)
    weights = place / WEIGHTS if folder else place
    if not weights.is_file():
        raise ValueError(f"{place}: expected a Sam folder, but {WEIGHTS} is missing")
    stored = load_file(weights) if folder else torch.load(weights, map_location="cpu", weights_only=True)
    sam = build_sam(sizes)
    try:
        sam.load_state_dict({name: value.float() for name, value in stored.items()})
    except RuntimeError as error:
        raise ValueError(f"{weights}: these weights do not fit the architecture of {place.name}: {error}") from error
    return sam


def _sizes_of_folder(folder: Path) -> SamSizes:
    config = folder / CONFIG
    if not config.is_file():
        raise ValueError(f"{folder}: expected a Sam folder, but {CONFIG} is missing")
    text = config.read_text(encoding="utf-8")
    try:
        stated = json.loads(text)
        kind = stated.get("model_type") if isinstance(stated, dict) else None
        if kind == MODEL_TYPE:
            return SamSizes.model_validate(stated)
    except (json.JSONDecodeError, ValidationError) as error:
        raise ValueError(f"{config}: not the sizes of a Sam: {error}") from error
    raise ValueError(
        f"{config}: model_type is {kind!r}, expected {MODEL_TYPE!r}; folders of transformers are read by "
        "perception.grounding=transformers"
    )


def _sizes_of_file(file: Path) -> SamSizes:
    if file.name not in PUBLISHED:
        raise ValueError(
            f"{file}: expected a folder or a file under its published name ({', '.join(PUBLISHED)}), from which the "
            "architecture is read"
        )
    return PUBLISHED[file.name]


def _check_digest(place: Path, configured: str | None) -> None:
    expected = {"configured": configured, "published": PUBLISHED_SHA256.get(place.name)}
    if not any(expected.values()):
        return
    found = content_sha256(place)
    for source, digest in expected.items():
        if digest and digest.lower() != found:
            raise ValueError(
                f"{place}: its sha256 is {found}, the {source} one is {digest}; fetch it again, or correct "
                "perception.detection.segmenter_sha256"
            )
