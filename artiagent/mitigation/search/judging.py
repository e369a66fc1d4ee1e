"""What those say of a search who did not steer it: held-out verifier, VLM, counter of parts; how alike its best are.

Every round's best picture so far is judged, once. Diversity is that of the ``top`` best pictures so far: mean cosine
distance of CLIP's image features over their pairs. A search that finds one picture again and again falls towards 0;
the first pictures of a random search say what is usual for the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from artiagent.config import EvaluationSection
from artiagent.images import decode
from artiagent.mitigation.search.records import Candidate, Round
from artiagent.records import CheckpointRef, DatasetRef, stable_hash
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows

if TYPE_CHECKING:
    import torch


class Judges:
    """Those who judge; their weights are loaded with the first picture.

    Args:
        evaluation: how the VLM is asked, and the device of all of them.
        reward: member 1 of its ensemble judges.
        clip: features for diversity.
        vlm: transformers folder.
        parser: of the counter of parts; None: without.
    """

    def __init__(
        self, evaluation: EvaluationSection, reward: CheckpointRef, clip: CheckpointRef, vlm: CheckpointRef,
        parser: CheckpointRef | None,
    ) -> None:  # fmt: skip
        self.evaluation, self.reward, self.clip, self.vlm, self.parser = evaluation, reward, clip, vlm, parser
        self.stamp = stable_hash(
            reward.sha256, clip.sha256, vlm.sha256, parser.sha256 if parser else "", evaluation.digest(), length=12
        )
        self._loaded = False

    def scores(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> list[dict[str, float]]:
        """Of each picture, uint8 [H, W, 3]: held_out and vlm; where parts can be counted, deviations from the counts of
        clean pictures and faulty, whether there is one."""
        self._load()
        columns = {"held_out": self._held_out(pictures), "vlm": self._verdict(pictures)}
        if self._parts and all(self._parts.can_judge(*each) for each in zip(pictures, prompts, strict=True)):
            columns["deviations"] = np.array([len(found) for found in self._parts.deviations(pictures, prompts)])
            columns["faulty"] = columns["deviations"] > 0
        return [{name: float(values[k]) for name, values in columns.items()} for k in range(len(pictures))]

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """CLIP's image features, unit length, float32 [n, D]."""
        self._load()
        return self._clip(pictures)

    def _load(self) -> None:
        if self._loaded:
            return
        from artiagent.learning.reward import open_reward
        from artiagent.mitigation.judges import VlmVerdict, open_parts

        self._held_out = open_reward(self.reward, member=1, device=self.evaluation.device)
        self._verdict = VlmVerdict(self.vlm, self.evaluation)
        self._parts = open_parts(self.parser) if self.parser else None
        self._clip = ClipFeatures(self.clip, self.evaluation.device, self.evaluation.batch_size)
        self._loaded = True


class ClipFeatures:
    """Image features of a CLIPModel folder."""

    def __init__(self, clip: CheckpointRef, device: str, batch: int) -> None:
        from transformers import AutoImageProcessor, CLIPModel

        from artiagent.devices import quiet_loading, torch_device

        quiet_loading()
        self.batch, self.device = batch, torch_device(device)
        self.processor = AutoImageProcessor.from_pretrained(clip.uri)
        self.model = CLIPModel.from_pretrained(clip.uri, use_safetensors=True).to(self.device).eval()

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            parts = [self._features(pictures[k : k + self.batch]) for k in range(0, len(pictures), self.batch)]
        return torch.cat(parts).float().cpu().numpy()

    def _features(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        from torch.nn.functional import normalize

        pixels = self.processor(list(pictures), return_tensors="pt")["pixel_values"].to(self.device)
        seen = self.model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self.model.visual_projection(seen), dim=-1)


def judge_rounds(judges: Judges, drawn: DatasetRef, top: int, out: Path) -> DatasetRef:
    """A row for every round of every search of ``drawn``; diversity is that of the ``top`` best, which must have been
    kept. Resumes by prompt. Raises StoreError when ``out`` holds the judgements of others."""
    stamp = stable_hash(drawn.digest, judges.stamp, length=12)
    if (complete := open_dataset(out, stamp)) is not None:
        return complete
    writer: DatasetWriter[Round] = DatasetWriter(out, "rounds", (), stamp)
    by_prompt = itertools.groupby(read_rows(drawn, Candidate), key=lambda row: row.key.split("/")[0])
    with tqdm(desc="judge", unit="prompt", total=int(drawn.summary["prompts"])) as bar:
        for number, rows in by_prompt:
            if number not in writer:
                writer.write(number, list(_judged(judges, list(rows), top)))
            bar.update()
    return writer.finish()


def _judged(judges: Judges, rows: list[Row[Candidate]], top: int) -> Iterator[Row[Round]]:
    kept = [row for row in rows if row.record.kept]
    pictures = {row.key: decode(row.images["image"]).copy() for row in kept}  # torch wants them writable
    features = dict(zip(pictures, judges.features(list(pictures.values())), strict=True))
    best = [row for row in kept if row.record.is_best]
    found = judges.scores([pictures[row.key] for row in best], [row.record.prompt for row in best])
    scores = {row.key: {"reward": row.record.reward, **each} for row, each in zip(best, found, strict=True)}
    for algorithm, of_search in itertools.groupby(rows, key=lambda row: row.record.algorithm):
        so_far: list[Row[Candidate]] = []
        for round_, of_round in itertools.groupby(of_search, key=lambda row: row.record.round):
            so_far = sorted([*so_far, *of_round], key=lambda row: -row.record.reward)
            found = {"diversity": diversity(np.stack([features[row.key] for row in so_far[:top]]))}
            yield _round(so_far, round_, algorithm, scores[so_far[0].key] | found)


def _round(so_far: list[Row[Candidate]], round_: int, algorithm: str, scores: dict[str, float]) -> Row[Round]:
    """The state after a round, given all candidates until then, best first (of equals the earlier)."""
    best = so_far[0]
    last = next(row.record for row in so_far if row.record.round == round_)
    record = Round(
        prompt=best.record.prompt, algorithm=algorithm, round=round_, calls=last.calls, decoded=last.decoded,
        best=best.key, scores=scores,
    )  # fmt: skip
    return Row(f"{best.key.split('/')[0]}/{algorithm}/{round_:02d}", record)


def diversity(features: np.ndarray) -> float:
    """Mean cosine distance over the pairs of unit vectors [n, D]; 0 of a single one."""
    n = len(features)
    if n < 2:
        return 0.0
    total = features.sum(axis=0)
    return float(1 - (total @ total - n) / (n * (n - 1)))
