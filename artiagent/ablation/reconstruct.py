"""How well a source comes back: inversion and replay with the identity mapping, by solver and number of steps.

Every source is replayed twice from the same noise: with the values cached on the way up, as the clean twin of a pair
is, and without them, which shows the error of the solver alone. The autoencoder alone is the bound of both.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from artiagent.ablation.rows import ReconstructionSection
from artiagent.config import CurationSection, SynthesisSection
from artiagent.curation.perceptual import load_metric
from artiagent.devices import use_threads
from artiagent.images import decode
from artiagent.parallel import ordered_map
from artiagent.records import Box, CheckpointRef, DatasetRef, Record, Scene
from artiagent.store import DatasetWriter, Row, open_dataset, read_rows
from artiagent.synthesis import solvers
from artiagent.synthesis.backbones import load_backbone
from artiagent.synthesis.engine import Engine

SECONDS = "seconds.json"
AUTOENCODER = "autoencoder"


class Reconstruction(Record):
    """One source under one setting. ``psnr`` in dB; ``distance`` is the perceptual one, over the whole image."""

    source_id: str
    solver: str  # or "autoencoder": encoded and decoded, no solver in between
    steps: int
    values: bool  # replayed with cached values
    psnr: float
    distance: float
    row_evaluations: int  # of inversion and replay

    @property
    def setting(self) -> str:
        return f"{self.solver}-{self.steps}{'-values' if self.values else ''}"


def reconstruct(
    section: ReconstructionSection,
    synthesis: SynthesisSection,
    curation: CurationSection,
    scenes: DatasetRef,
    generator: CheckpointRef,
    out: Path,
) -> DatasetRef:
    """Reconstruct the first scored sources under every setting; rows Reconstruction, in batches of one source.

    ``seconds.json`` beside the rows holds ``{source: {setting: seconds}}``, which no digest may depend on.
    """
    if (ready := open_dataset(out)) is not None:
        return ready
    writer: DatasetWriter[Reconstruction] = DatasetWriter(out, "reconstructions")
    scored = (row for row in read_rows(scenes, Scene) if row.record.scored)
    work = (row for row in islice(scored, section.sources) if row.key not in writer)
    arguments = (section, synthesis, curation, generator)
    with tqdm(desc="reconstruct", total=section.sources, unit="source", initial=len(writer.done)) as bar:
        for source, rows, seconds in ordered_map(Reconstructor, arguments, work, synthesis.workers):
            made = [Row(f"{source}-{row.setting}", row) for row in rows]
            writer.write(source, made, {"seconds": seconds})
            bar.update()
    spent = {source: writer.note(source)["seconds"] for source in sorted(writer.done)}
    if not spent:
        raise ValueError(f"{scenes.uri}: none of {scenes.rows} scenes is in a scored group; nothing to reconstruct")
    writer.attach(SECONDS, json.dumps(spent, indent=1).encode())
    return writer.finish({"sources": len(spent)})


class Reconstructor:
    """Work for ``ordered_map``: holds the backbone and the metric."""

    def __init__(
        self,
        section: ReconstructionSection,
        synthesis: SynthesisSection,
        curation: CurationSection,
        generator: CheckpointRef,
    ) -> None:
        use_threads(synthesis.threads)
        self.section, self.synthesis = section, synthesis
        self.backbone = load_backbone(generator, synthesis)
        self.metric = load_metric(curation)

    def __call__(self, source: Row[Scene]) -> tuple[str, list[Reconstruction], dict[str, float]]:
        """Rows of one source and the seconds of every setting."""
        image = decode(source.images["image"])
        (prompt,) = self.backbone.embed([source.record.caption])
        rows, seconds = [self._row(source.key, image, self._encoded(image), AUTOENCODER, 0)], {}
        for solver in self.section.solvers:
            for steps in self.section.steps:
                for values, (again, spent) in self._replayed(image, prompt, solver, steps).items():
                    row = self._row(source.key, image, again, solver, steps, values=values)
                    rows.append(row)
                    seconds[row.setting] = round(spent, 4)
        return source.key, rows, seconds

    @torch.inference_mode()
    def _encoded(self, image: np.ndarray) -> np.ndarray:
        return self.backbone.decode(self.backbone.encode(image[None]), self.backbone.grid(*image.shape[:2]))[0]

    def _replayed(
        self, image: np.ndarray, prompt: object, solver: str, steps: int
    ) -> dict[bool, tuple[np.ndarray, float]]:
        """Image and seconds of inversion and replay, with the cached values (True) and without."""
        changed = {"solver": solver, "steps": steps, "variant_tokens": "all"}
        engine = Engine(self.backbone, self.synthesis.model_copy(update=changed))
        started = time.perf_counter()
        inversion = engine.invert(image, prompt)
        inverted = time.perf_counter() - started
        twin = engine.variants([], inversion)
        live = replace(twin, value_fraction=torch.zeros_like(twin.value_fraction))
        done = {}
        for values, rows in ((True, twin), (False, live)):
            started = time.perf_counter()
            again = engine.inject(inversion, rows)[0]
            done[values] = again, inverted + time.perf_counter() - started
        return done

    def _row(
        self, source: str, image: np.ndarray, again: np.ndarray, solver: str, steps: int, *, values: bool = False
    ) -> Reconstruction:
        height, width = image.shape[:2]
        return Reconstruction(
            source_id=source,
            solver=solver,
            steps=steps,
            values=values,
            psnr=round(psnr(image, again), 4),
            distance=round(self.metric.distance(image, again, Box(0, 0, width, height)), 6),
            row_evaluations=2 * solvers.calls(solver, steps) if steps else 0,
        )


def psnr(image: np.ndarray, again: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; 78 for equal ones (a mean square error of .001)."""
    error = float(((image.astype(np.float64) - again.astype(np.float64)) ** 2).mean())
    return 10 * math.log10(255**2 / max(error, 1e-3))
