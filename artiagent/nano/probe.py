"""The gate before fine-tuning: can a linear probe on frozen vision features tell artifact image from clean twin?

``artiagent nano probe --curated FOLDER`` prints the AUROC on held-out sources. If it stays near chance, no
prompt and no adapter of the language model can see the artifacts either; then the clean pre-training has to change.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from artiagent.evaluation.bootstrap import draw_weights, interval
from artiagent.evaluation.metrics import auroc, ratio_of
from artiagent.images import decode
from artiagent.instruction.conversations import usable
from artiagent.records import Interval, Pair
from artiagent.store import read_rows
from artiagent.vlm.local import LocalVlm

BATCH = 32
FOLDS = 5
GATE = 0.75  # AUROC from which fine-tuning is worth its time


def image_tokens(vlm: LocalVlm, images: Iterable[np.ndarray]) -> np.ndarray:
    """Frozen vision features as the language model receives them: float32 [B, 3 * hidden], the mean, the largest and
    the smallest value over the tokens of each image (uint8 [H, W, 3], all of one size)."""
    pixels = vlm.processor.image_processor(list(images), return_tensors="pt").to(vlm.device)
    with torch.inference_mode():
        outputs = vlm.model.model.get_image_features(
            pixels["pixel_values"].to(vlm.model.dtype), pixels["image_grid_thw"], return_dict=True
        )
    tokens = torch.stack(tuple(outputs.pooler_output)).float()
    return torch.cat([tokens.mean(1), tokens.amax(1), tokens.amin(1)], 1).cpu().numpy()


def pair_features(vlm: LocalVlm, curated: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features of the twins and of the artifact images [P, F] of usable pairs, and their sources."""
    clean, artifact, sources = [], [], []
    batch: list[tuple[np.ndarray, np.ndarray]] = []

    def flush() -> None:
        for kept, side in ((clean, 0), (artifact, 1)):
            kept.append(image_tokens(vlm, [pair[side] for pair in batch]))
        batch.clear()

    for row in tqdm(read_rows(curated, Pair), "features", unit="pair"):
        if not usable(row.record):
            continue
        batch.append((decode(row.images["clean"]), decode(row.images["artifact"])))
        sources.append(row.record.source_id)
        if len(batch) == BATCH:
            flush()
    if batch:
        flush()
    if len(set(sources)) < FOLDS:
        raise ValueError(f"{curated}: {len(set(sources))} sources with accepted pairs; the probe needs {FOLDS}")
    return np.concatenate(clean), np.concatenate(artifact), sources


def probe(clean: np.ndarray, artifact: np.ndarray, sources: list[str], seed: int = 0) -> dict[str, Interval]:
    """Scores of held-out sources: ``auroc`` over all images, ``pairs`` the share of pairs ordered rightly.

    Intervals resample sources.
    """
    features = np.concatenate([clean, artifact])
    labels = np.repeat([False, True], len(clean))
    names, groups = np.unique(np.array(sources), return_inverse=True)
    doubled = np.concatenate([groups, groups])
    scores = np.empty(len(labels))
    for fit, held in GroupKFold(FOLDS).split(features, labels, doubled):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(features[fit], labels[fit])
        scores[held] = model.decision_function(features[held])
    weights = draw_weights(len(names), 1000, seed)
    area = auroc(labels, scores)
    wins = np.bincount(groups, weights=scores[len(clean) :] > scores[: len(clean)])
    return {
        "auroc": interval(lambda drawn: area(drawn[:, doubled]), weights),
        "pairs": interval(ratio_of(wins, np.bincount(groups).astype(float)), weights),
    }
