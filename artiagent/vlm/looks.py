"""Images that a model has looked at once, to be asked about several times.

Knows what transformers' vision encoders return and take back (``mm_encoder_outputs``). Does not know questions. Where a
model does not take its own features back, or not image by image, an image is encoded anew for every question.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedModel


@dataclass(frozen=True)
class Look:
    """An image, uint8 [H, W, 3], and its features: [tokens, width] for the language model's input, then one for each of
    its layers that takes further ones; () where the model must see the pixels again. `stacked`: the model takes those
    of a batch as one tensor."""

    image: np.ndarray
    features: tuple[torch.Tensor, ...] = ()
    stacked: bool = False


def looks_at(model: PreTrainedModel, images: Sequence[np.ndarray], batch: BatchFeature) -> list[Look]:
    """Run the vision encoder over a batch of one image per row."""
    encode = getattr(model.base_model, "get_image_features", None)
    if encode is None or "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return [Look(image) for image in images]
    given = {name: batch[name] for name in inspect.signature(encode).parameters if name in batch}
    with torch.inference_mode():
        found = encode(**given, return_dict=True)
    layers = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
    if any(len(layer) != len(images) for layer in layers):  # e.g. several tiles of an image
        return [Look(image) for image in images]
    stacked = isinstance(found.pooler_output, torch.Tensor)
    return [Look(image, tuple(features), stacked) for image, *features in zip(images, *layers, strict=True)]


def shown_again(batch: BatchFeature, looks: Sequence[Look]) -> BatchFeature:
    """The batch with features in the place of pixels; as it is when an image has none."""
    if not all(look.features for look in looks):
        return batch
    pooled, *deeper = zip(*(look.features for look in looks), strict=True)
    found = SimpleNamespace(
        pooler_output=torch.stack(pooled) if looks[0].stacked else pooled, deepstack_features=deeper or None
    )
    rest = {name: value for name, value in batch.items() if name != "pixel_values"}
    return BatchFeature({**rest, "mm_encoder_outputs": {"image": found}})
