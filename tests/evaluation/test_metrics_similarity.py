"""CSS: the mean-pooled embedding of a small BERT with random weights, against one computed sentence by sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from artiagent.evaluation.benchmarks import BenchmarkItem
from artiagent.evaluation.metrics import sentence_similarity
from artiagent.evaluation.scoring import scores_of
from artiagent.records import Prediction

WORDS = "the a dog cat has no extra ear leg missing grows from its head and tail two three odd".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "."]))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 6, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.4,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


def embedding(folder: Path, text: str, longest: int = 64) -> np.ndarray:
    """One sentence alone: no padding, no mask, the plain mean of its tokens."""
    vocabulary = {word: k for k, word in enumerate((folder / "vocab.txt").read_text().split())}
    words = text.lower().replace(".", " .").split()
    inner = [vocabulary.get(word, vocabulary["[UNK]"]) for word in words][: longest - 2]
    ids = [vocabulary["[CLS]"], *inner, vocabulary["[SEP]"]]
    with torch.inference_mode():
        return BertModel.from_pretrained(folder).eval()(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def test_cosines_are_those_of_single_sentences(encoder: Path) -> None:
    """In batches of unequal lengths, so that padding would show if it were pooled."""
    rng = np.random.default_rng(0)
    references, answers = ([" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(40)] for _ in range(2))
    answers[3], answers[7], answers[9] = references[3], "", "  "
    found = sentence_similarity(references, answers, str(encoder))
    expected = [cosine(embedding(encoder, a), embedding(encoder, b)) for a, b in zip(references, answers, strict=True)]
    expected[7] = expected[9] = 0.0  # nothing said is nothing alike
    assert found == pytest.approx(expected, abs=1e-5) and found[3] == pytest.approx(1)
    assert np.ptp(np.delete(found, [3, 7, 9])) > 0.1


def copied(encoder: Path, folder: Path, files: dict[str, object]) -> str:
    folder.mkdir()
    for file in encoder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return str(folder)


def modules(*kinds: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in kinds]


def test_a_sentence_transformers_folder_says_how_it_pools_and_how_long_it_reads(encoder: Path, tmp_path: Path) -> None:
    mean = {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    files = {
        "modules.json": modules("Transformer", "Pooling", "Normalize"),
        "1_Pooling/config.json": mean | {"include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": 6},
    }
    reference, said = "the dog has no ear and a cat", "the dog has no tail and two heads"
    found = sentence_similarity([reference], [said], copied(encoder, tmp_path / "a", files))[0]
    short = [embedding(encoder, text, longest=6) for text in (reference, said)]
    assert found == pytest.approx(1, abs=1e-5) == cosine(*short)  # the first four words are the same
    assert sentence_similarity([reference], [said], str(encoder))[0] < 0.999
    told = files | {"1_Pooling/config.json": {"embedding_dimension": 24, "pooling_mode": "mean"}}
    assert sentence_similarity([reference], [said], copied(encoder, tmp_path / "b", told))[0] == pytest.approx(found)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1_Pooling/config.json": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}}, "cls_token"),
        ({"1_Pooling/config.json": {"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}}, "max_tokens"),
        ({"1_Pooling/config.json": {"pooling_mode": "lasttoken"}}, "lasttoken"),
        ({"modules.json": modules("Transformer", "Pooling", "Dense")}, "Dense"),
        ({"modules.json": modules("Transformer")}, "expected Transformer, Pooling"),
    ],
)
def test_other_pooling_is_refused(encoder: Path, tmp_path: Path, files: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sentence_similarity(["a dog"], ["a cat"], copied(encoder, tmp_path / "x", files))


def test_pickled_weights_are_never_opened(encoder: Path, tmp_path: Path) -> None:
    folder = Path(copied(encoder, tmp_path / "x", {}))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        sentence_similarity(["a dog"], ["a cat"], str(folder))
    with pytest.raises(ValueError, match="no such file or folder"):
        sentence_similarity(["a dog"], ["a cat"], str(tmp_path / "none"))


def test_css_is_over_faulty_images_with_a_text(encoder: Path) -> None:
    shape = {"width": 8, "height": 8}
    items = [
        BenchmarkItem(item_id="a", faulty=True, explanation="the dog has no ear", **shape),
        BenchmarkItem(item_id="b", faulty=True, explanation="the cat has two tails", **shape),
        BenchmarkItem(item_id="c", faulty=False, **shape),
        BenchmarkItem(item_id="d", faulty=True, **shape),
    ]
    texts = ("the dog has no ear", "", "anything", "anything")
    rows = [
        Prediction(benchmark="b", item_id=i.item_id, model="m", model_sha256="s", prompt_hash="p", verdict=None,
                   score=None, explanation=text)
        for i, text in zip(items, texts, strict=True)
    ]  # fmt: skip
    score = scores_of(items, rows, ["explanation"], str(encoder))["css"]
    assert score.n == 2 and float(score.statistic(np.ones((1, 4), np.float32))[0]) == pytest.approx(0.5)
