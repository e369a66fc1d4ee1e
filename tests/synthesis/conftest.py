"""A FluxPipeline folder of the real classes with random weights: small, but every code path of the full size."""

from pathlib import Path

import pytest
import torch

from artiagent.checkpoints import checkpoint_ref
from artiagent.nano.flux import build_tokenizers
from artiagent.nano.flux_export import assemble, export_folder
from artiagent.nano.flux_transformer import build_flow
from artiagent.nano.flux_vae import LATENT_CHANNELS, build_vae
from artiagent.records import CheckpointRef

CAPTION = "a red dog on grass"


@pytest.fixture(scope="session")
def random_flux(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    folder: Path = tmp_path_factory.mktemp("flux") / "random-flux"
    clip, t5 = build_tokenizers([CAPTION, "a cat"])
    flow = build_flow(clip, t5, 4 * LATENT_CHANNELS, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in flow.parameters():  # zero-initialised output layers would hide every injection
        torch.nn.init.normal_(parameter, std=0.08, generator=generator)
    export_folder(assemble(build_vae((8, 8, 8)), flow, clip, t5, torch.float32), folder, {})
    return checkpoint_ref("random-flux", str(folder))
