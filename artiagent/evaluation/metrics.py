"""Scores per image, and statistics over images as functions of bootstrap weights.

Conventions (spec: evaluation): macro-F1 is the mean over both classes; foreground IoU and pixel F1 of union masks are
averaged over images with a ground-truth region; an empty answer on an image without one is reported apart and never
counts as 1; an answer that cannot be parsed is wrong; an empty explanation scores 0.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artiagent.checkpoints import locate
from artiagent.evaluation.bootstrap import Statistic
from artiagent.records import Box

MATCH_IOU = 0.5

# Word stems by which a free text names a fault; a benchmark's fault that is not listed is looked for by its own words.
FAULT_WORDS: dict[str, str] = {
    "duplication": r"extra|additional|second|third|fifth|sixth|another|duplicat|double|repeat|too many|twice|more",
    "omission": r"missing|lack|absen|without|omi(t|ss)|gone|no \w+ where|has no|incomplete|cut off|too few",
    "distortion": r"distort|deform|scrambl|melt|warp|bent|bend|twist|broken|garbl|smear|malform|impossible|shape",
    "fusion": r"fus(e|i)|merg|blend|gr[eo]wn? (in|to)|melts? into|joined|into each other|boundary|flows? into|one body",
    "misplacement": r"misplac|out of place|wrong(ly)? (position|place|locat)|detach|displac|grows? (from|out)|float",
    "scale": r"too (big|large|small|tiny|long|short)|oversi|undersi|enlarg|shrunk|huge|tiny|scale|proportion",
}


def mean_of(values: np.ndarray, present: np.ndarray | None = None) -> Statistic:
    """Weighted mean of per-image values [n]; ``present`` bool [n] restricts it to some images."""
    mask = np.ones(len(values), bool) if present is None else present
    kept = np.where(mask, values, 0.0)
    return ratio_of(kept, mask.astype(float))


def ratio_of(numerator: np.ndarray, denominator: np.ndarray) -> Statistic:
    """Ratio of weighted sums of two per-image columns [n]; NaN where the denominator vanishes."""
    columns = np.stack([numerator, denominator], axis=1).astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        top, bottom = (weights @ columns).T
        return _divide(top, bottom, np.nan)

    return statistic


def macro_f1(truth: np.ndarray, answers: np.ndarray) -> Statistic:
    """Mean of the F1 of both classes.

    Args:
        truth: bool [n].
        answers: int [n]: 1 yes, 0 no, -1 unparsable (a miss of its true class, a hit of none).
    """
    positive, negative = truth.astype(bool), ~truth.astype(bool)
    cells = [positive & (answers == 1), negative & (answers == 1), negative & (answers == 0), positive & (answers == 0)]
    columns = np.stack([*cells, positive, negative], axis=1).astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        tp, fp, tn, fn, yes, no = (weights @ columns).T
        f1_yes = _divide(2 * tp, tp + fp + yes, 0.0)
        f1_no = _divide(2 * tn, tn + fn + no, 0.0)
        return np.where((yes > 0) & (no > 0), (f1_yes + f1_no) / 2, np.nan)

    return statistic


def auroc(truth: np.ndarray, scores: np.ndarray) -> Statistic:
    """Area under the ROC curve: chance that a faulty image scores above a clean one, ties half; NaN for one class."""
    if np.isnan(scores).any():
        raise ValueError("AUROC needs a score for every image; got NaN among them")
    clean = ~truth.astype(bool)
    faulty = truth.astype(bool)
    order = np.argsort(scores[clean], kind="stable")
    ranked = scores[clean][order]
    below, upto = (np.searchsorted(ranked, scores[faulty], side) for side in ("left", "right"))

    def statistic(weights: np.ndarray) -> np.ndarray:
        yes, no = weights[:, faulty].astype(np.float64), weights[:, clean][:, order].astype(np.float64)
        passed = np.pad(np.cumsum(no, axis=1), ((0, 0), (1, 0)))  # weight of the clean images up to each rank
        wins = (yes * (passed[:, below] + passed[:, upto])).sum(1) / 2
        return _divide(wins, yes.sum(1) * no.sum(1), np.nan)

    return statistic


def recall_at(truth: np.ndarray, scores: np.ndarray, false_alarms: float) -> Statistic:
    """Share of faulty images that score above all but a share ``false_alarms`` of the clean ones.

    The threshold is found anew in every resample; NaN where a class is missing.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # ties are passed together
    positive = truth[order].astype(np.float64)

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, order].astype(np.float64)
        yes, no = (np.cumsum(drawn * side, axis=1)[:, ends] for side in (positive, 1 - positive))
        allowed = no <= false_alarms * no[:, -1:] + 1e-9
        return _divide((yes * allowed).max(1), yes[:, -1], np.nan) + np.where(no[:, -1] > 0, 0.0, np.nan)

    return statistic


def pixel_overlap(truth: np.ndarray, answer: np.ndarray) -> tuple[float, float]:
    """Foreground (IoU, F1) of two bool masks [H, W]. Raises ValueError for an empty ground truth: that is no
    foreground.
    """
    if not truth.any():
        raise ValueError("foreground IoU needs a ground-truth region; count images without one apart")
    shared, total = np.count_nonzero(truth & answer), np.count_nonzero(truth) + np.count_nonzero(answer)
    return shared / (total - shared), 2 * shared / total


def match_boxes(truth: Sequence[Box], answer: Sequence[Box], threshold: float = MATCH_IOU) -> int:
    """Number of one-to-one matches with an IoU of at least ``threshold``, as many as possible."""
    if not truth or not answer:
        return 0
    from scipy.optimize import linear_sum_assignment

    hits = np.array([[t.iou(a) >= threshold for a in answer] for t in truth])
    rows, columns = linear_sum_assignment(hits, maximize=True)
    return int(hits[rows, columns].sum())


@functools.cache
def _rouge() -> object:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L F of stemmed words; 0 for an empty answer."""
    if not answer.strip():
        return 0.0
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def grounded_recall(entity: str, part: str, fault: str, answer: str) -> float | None:
    """Share of (entity, part, fault type) that the answer names; None when the truth names none of them."""
    text = answer.lower()
    patterns = [_noun(word) for word in (entity, part) if word]
    if fault:
        patterns.append(FAULT_WORDS.get(fault, _noun(fault.replace("_", " "))))
    if not patterns:
        return None
    return sum(bool(re.search(rf"\b(?:{pattern})", text)) for pattern in patterns) / len(patterns)


def sentence_similarity(references: Sequence[str], answers: Sequence[str], encoder: str) -> np.ndarray:
    """CSS: cosine [n] of sentence embeddings (mean of the tokens') from a local encoder folder; 0 for empty answers.

    Raises ValueError for a sentence-transformers folder that pools otherwise: its embeddings would be other ones.
    """
    import torch

    tokenizer, model, longest = _encoder(locate(encoder))

    def embed(texts: Sequence[str]) -> torch.Tensor:
        rows = []
        for start in range(0, len(texts), 32):
            some = list(texts[start : start + 32])
            batch = tokenizer(some, padding=True, truncation=True, max_length=longest, return_tensors="pt")
            with torch.inference_mode():
                hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(hidden.dtype)
            rows.append((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.nn.functional.normalize(torch.cat(rows), dim=-1)

    cosine = (embed(references) * embed([a or " " for a in answers])).sum(1).numpy().astype(np.float64)
    return np.where([bool(a.strip()) for a in answers], cosine, 0.0)


@functools.lru_cache(maxsize=1)
def _encoder(folder: Path) -> tuple[Any, Any, int]:
    """(tokenizer, model, longest sequence in tokens)."""
    from transformers import AutoModel, AutoTokenizer

    stated = _check_pooling(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, use_safetensors=True).eval()
    return tokenizer, model, min(stated or tokenizer.model_max_length, model.config.max_position_embeddings)


def _check_pooling(folder: Path) -> int | None:
    """Longest sequence in tokens that a sentence-transformers folder states; a plain encoder states none.

    Raises ValueError for anything but mean pooling, with or without normalisation, which a cosine does anyway.
    """
    if (modules := folder / "modules.json").is_file():
        kinds = [module["type"].rpartition(".")[2] for module in json.loads(modules.read_bytes())]
        if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Normalize"}:
            raise ValueError(f"{modules}: modules {kinds}; expected Transformer, Pooling and perhaps Normalize")
    if (pooling := folder / "1_Pooling" / "config.json").is_file():
        values = json.loads(pooling.read_bytes())
        modes = [name.removeprefix("pooling_mode_") for name, on in values.items() if on is True and "_mode_" in name]
        modes = [values["pooling_mode"]] if "pooling_mode" in values else modes
        if modes not in (["mean_tokens"], ["mean"]):
            raise ValueError(f"{pooling}: pooling {modes}; expected the mean of the tokens, choose another encoder")
    if (settings := folder / "sentence_bert_config.json").is_file():
        return json.loads(settings.read_bytes()).get("max_seq_length")
    return None


def _noun(words: str) -> str:
    """Pattern of a noun in singular or plural."""
    irregular = {"foot": "feet", "person": "people", "mouse": "mice"}
    stem = re.escape(words.lower().strip())
    return f"{stem}(?:s|es)?\\b|{irregular[words]}\\b" if words in irregular else f"{stem}(?:s|es)?\\b"


def _divide(top: np.ndarray, bottom: np.ndarray, otherwise: float) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(top.shape, otherwise, dtype=np.float64), where=bottom > 0)
