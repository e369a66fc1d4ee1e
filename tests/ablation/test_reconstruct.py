import json
from pathlib import Path

import numpy as np
import pytest

from artiagent.ablation.reconstruct import SECONDS, Reconstruction, psnr, reconstruct
from artiagent.ablation.rows import ReconstructionSection
from artiagent.config import CurationSection, SynthesisSection
from artiagent.store import read_rows
from tests.synthesis.conftest import random_flux  # noqa: F401  (fixture)
from tests.synthesis.scenes import write_scenes

SECTION = ReconstructionSection(sources=2, solvers=("euler", "fireflow"), steps=(2, 12))
SYNTHESIS = SynthesisSection(workers=1)


@pytest.fixture(scope="module")
def made(random_flux, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("reconstructions")
    scenes = write_scenes(folder / "scenes", range(3))
    return reconstruct(SECTION, SYNTHESIS, CurationSection(), scenes, random_flux, folder / "out")


def test_every_setting_of_every_source(made):
    rows = [row.record for row in read_rows(made, Reconstruction)]
    assert made.summary["sources"] == len({row.source_id for row in rows}) == 2
    settings = [row.setting for row in rows if row.source_id == rows[0].source_id]
    assert settings == [
        "autoencoder-0", "euler-2-values", "euler-2", "euler-12-values", "euler-12",
        "fireflow-2-values", "fireflow-2", "fireflow-12-values", "fireflow-12",
    ]  # fmt: skip
    cost = {row.setting: row.row_evaluations for row in rows}
    assert (cost["euler-12"], cost["fireflow-12-values"], cost["autoencoder-0"]) == (24, 26, 0)
    seconds = json.loads((Path(made.uri) / SECONDS).read_text())
    assert all(set(found) == set(settings[1:]) for found in seconds.values())
    assert min(seconds[rows[0].source_id].values()) > 0


def test_more_steps_and_cached_values_bring_more_back(made):
    rows = [row.record for row in read_rows(made, Reconstruction)]
    found = {
        setting: np.mean([row.psnr for row in rows if row.setting == setting]) for setting in (r.setting for r in rows)
    }
    assert found["euler-12"] > found["euler-2"]
    assert found["euler-2-values"] > found["euler-2"]


def test_psnr():
    image = np.zeros((4, 4, 3), np.uint8)
    assert psnr(image, image + 255) == pytest.approx(0.0)
    assert psnr(image, image + 16) == pytest.approx(20 * np.log10(255 / 16))
    assert psnr(image, image) == pytest.approx(78.13, abs=0.01)
