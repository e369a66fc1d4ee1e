"""nano-VL as files: a Qwen2.5-VL of 3.8 million parameters, its tokenizer, processor and chat template.

Knows sizes and formats. Does not know tasks or training. The folder it writes is an ordinary transformers folder:
`Qwen2_5_VLForConditionalGeneration.from_pretrained` and `AutoProcessor.from_pretrained` read it.

Why these sizes: patch 8 with merge 2 gives 64 image tokens at 128 px, one for 16x16 px. The rotary base is 10 and not a
million because a head has only 24 frequencies and the last ten, which carry the column of an image token, must turn
visibly within 8 columns.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from artiagent.instruction import prompts
from artiagent.nano.scenes import CAPTION_WORDS
from artiagent.nano.views import parts_of_kinds

IMAGE_SIZE = 128  # px; larger images are scaled down to as many pixels
PATCH, MERGE, TEMPORAL = 8, 2, 2
LARGEST_INTEGER = 256
VOCABULARY = 1024
SPECIAL = (
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip

# As Qwen2.5-VL's, less the default system turn, and with the markers from which trainers read the assistant's tokens.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- generation -%}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for item in message['content'] -%}{{- item['text'] -}}{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{{- '\\n' -}}
{%- else -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}{{- message['content'] -}}
{%- else -%}{%- for item in message['content'] -%}
{%- if item['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}{{- item['text'] -}}
{%- endif -%}
{%- endfor -%}{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# Words of explanations that clean scenes never need, so that fine-tuning does not spell them letter by letter.
_FAULT_WORDS = (
    "extra missing duplicated distorted scrambled misplaced fused merged melted bent broken twisted unnatural "
    "anatomically wrong additional second third fifth another where there should be looks like grows out from without "
    "body both into each other shape boundary unclear smeared detached absent incomplete repeated instead only with "
    "has too many few does not match deformed impossible structure garbled blended together place visible one two "
    "three four five six"
)


def build_tokenizer(texts: Iterable[str] | None = None) -> Qwen2Tokenizer:
    """Byte-level BPE of Qwen2's class; every integer 0 to 256 is one token, and so are Yes and No.

    Qwen2 splits digits, which makes a coordinate up to three decisions; added whole-word tokens make it one.
    """
    blank = Qwen2Tokenizer()  # its normalizer and pre-tokenizer are part of the class, so they are taken from it
    learner = Tokenizer(models.BPE())
    learner.normalizer = blank.backend_tokenizer.normalizer
    learner.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - LARGEST_INTEGER - 1 - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    learner.train_from_iterator(_corpus() if texts is None else texts, trainer)
    tokenizer = Qwen2Tokenizer(
        vocab=learner.get_vocab(with_added_tokens=True),
        merges=_merges(learner),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL),
        model_max_length=2048,
    )
    integers = [
        AddedToken(str(n), single_word=True, normalized=False, special=False) for n in range(LARGEST_INTEGER + 1)
    ]
    tokenizer.add_tokens(integers)
    return tokenizer


def _merges(learner: Tokenizer) -> list[tuple[str, str]]:
    merges = json.loads(learner.to_str())["model"]["merges"]
    return [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in merges]


def _corpus() -> list[str]:
    """Every wording with every noun of the nano world, and the words of captions and explanations."""
    pairs = [(kind, part) for kind, parts in parts_of_kinds().items() for part in parts]
    texts = [f" {word}" for word in (*CAPTION_WORDS, *_FAULT_WORDS.split())] * 40
    texts += ["system\n", "user\n", "assistant\n", prompts.YES, prompts.NO, "[[", "]]", "],["] * 400
    for (question, wordings), (kind, part) in itertools.product(prompts.WORDINGS.items(), pairs):
        if question in (prompts.LOCATE_MISMATCH, prompts.LOCATE_ALL):  # came later: shipped tokenizers stay valid
            continue
        fields = {"entity": kind, "part": part, "box": "[0,0,0,0]"}
        wanted = {name: fields[name] for name in prompts.fields_of(question)}
        texts += [prompts.render(question, wording, **wanted) for wording in range(len(wordings))]
    return texts


def build_processor(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLProcessor:
    """Processor that leaves a 128x128 px image as it is and scales others to at most as many pixels."""
    layout = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TEMPORAL}
    size = {"shortest_edge": (IMAGE_SIZE // 2) ** 2, "longest_edge": IMAGE_SIZE**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **layout),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size, **layout),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(
    tokenizer: Qwen2Tokenizer, *, hidden: int = 192, vision_hidden: int = 160, depth: int = 4
) -> Qwen2_5_VLConfig:
    """`hidden` must be divisible by 8, `vision_hidden` by 16; `depth` layers in the language model, one more in the
    vision tower, whose blocks all attend to the whole image (a window would not save time at 256 patches)."""
    frequencies = hidden // 4 // 2
    rows = (frequencies - frequencies // 6) // 2
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": hidden, "intermediate_size": hidden * 7 // 3,
            "num_hidden_layers": depth, "num_attention_heads": 4, "num_key_value_heads": 4,
            "max_position_embeddings": 2048, "bos_token_id": None, "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10.0, "mrope_section": [frequencies - 2 * rows, rows, rows],
            },
        },
        vision_config={
            "depth": depth + 1, "hidden_size": vision_hidden, "intermediate_size": vision_hidden * 12 // 5,
            "num_heads": 4, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TEMPORAL,
            "window_size": IMAGE_SIZE, "out_hidden_size": hidden, "fullatt_block_indexes": list(range(depth + 1)),
        },
        image_token_id=ids["<|image_pad|>"], video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"], vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True, pad_token_id=tokenizer.pad_token_id, eos_token_id=ids["<|im_end|>"],
    )  # fmt: skip


def build_model(tokenizer: Qwen2Tokenizer, *, seed: int = 0, **sizes: int) -> Qwen2_5_VLForConditionalGeneration:
    """Freshly initialised model; neighbouring integers start with similar embeddings."""
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(build_config(tokenizer, **sizes))
    model.generation_config.update(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None
    )
    _initialise_integers(model, tokenizer)
    return model


@torch.no_grad()
def _initialise_integers(model: Qwen2_5_VLForConditionalGeneration, tokenizer: Qwen2Tokenizer) -> None:
    """Random Fourier features of the value: coordinates are ordered from the start, not 257 unrelated words."""
    table = model.get_input_embeddings().weight
    spread = float(table.std())
    values = torch.arange(LARGEST_INTEGER + 1, dtype=torch.float32)[:, None]
    periods = torch.exp(torch.empty(table.shape[1]).uniform_(math.log(6), math.log(512)))
    phases = torch.empty(table.shape[1]).uniform_(0, 2 * math.pi)
    features = torch.cos(2 * math.pi * values / periods + phases) * math.sqrt(2) * spread
    ids = tokenizer.convert_tokens_to_ids([str(n) for n in range(LARGEST_INTEGER + 1)])
    table[ids] = features


def save_model(folder: Path, model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
    """Write the transformers folder, weights as float16 safetensors. `model` is left untouched."""
    twin = copy.deepcopy(model).cpu().to(torch.float16)
    twin.save_pretrained(folder)
    processor.save_pretrained(folder)
