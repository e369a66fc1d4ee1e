"""Text side of nano-FLUX: a small vocabulary in the CLIP and T5 tokenizer classes, one-layer CLIP and T5 encoders.

The classes are those that FLUX.1-dev names in its folder, so that other versions of the libraries load ours too. Every
word of the scene captions is one token in both; any other word falls apart into characters.
"""

import json
import re
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast

TEXT_TOKENS = 32
WIDTH = 128
_START, _END = "<|startoftext|>", "<|endoftext|>"


def caption_words(captions: Iterable[str]) -> list[str]:
    """Sorted distinct lower-case words of the captions; raises ValueError when there is none."""
    words = sorted({word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())})
    if not words:
        raise ValueError("the captions hold no word; a text-conditioned model needs captioned scenes")
    return words


def build_clip_tokenizer(words: list[str]) -> CLIPTokenizer:
    """Byte-level BPE whose merges make one token of each word; at most `TEXT_TOKENS` tokens with both end marks."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000, min_frequency=0, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    bpe.train_from_iterator(words, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + "</w>" for letter in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys([*pieces, _START, _END]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TEXT_TOKENS)


def build_t5_tokenizer(words: list[str]) -> T5TokenizerFast:
    """Unigram pieces: each word as it stands and capitalised, and single printable characters as the fall-back."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -4.0)]
    pieces += [(f"\u2581{form}", -2.0) for word in words for form in dict.fromkeys((word, word.capitalize()))]
    known = {piece for piece, _ in pieces}
    pieces += [(char, -8.0) for char in string.digits + string.ascii_letters + string.punctuation if char not in known]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def build_clip_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """One-layer CLIP text model; FLUX uses its pooled output, the state at the first end mark."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_t5_encoder(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    """One-layer T5 encoder; FLUX feeds its token states into the joint attention."""
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        d_kv=32,
        d_ff=2 * WIDTH,
        num_layers=1,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def text_token_limit(folder: Path) -> int:
    """Longest T5 prompt, in tokens, of a FluxPipeline folder: the `max_sequence_length` to call it with.

    FluxPipeline itself assumes 512. Raises ValueError when the folder names no such limit.
    """
    path = folder / "tokenizer_2" / "tokenizer_config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no tokenizer_2/tokenizer_config.json; expected a FluxPipeline folder")
    limit = json.loads(path.read_text()).get("model_max_length")
    if not isinstance(limit, int) or not 0 < limit <= 512:
        raise ValueError(f"{path}: model_max_length is {limit!r}; FLUX needs a whole number from 1 to 512")
    return limit


def check_caption_lengths(tokenizer: CLIPTokenizer | T5TokenizerFast, captions: Iterable[str]) -> None:
    """Raises ValueError when a caption would be cut off, which would train the model on half-told scenes."""
    for caption in captions:
        length = len(tokenizer(caption).input_ids)
        if length > TEXT_TOKENS:
            raise ValueError(f"caption of {length} tokens, the limit is {TEXT_TOKENS}: {caption!r}; shorten captions")
