"""FluxPipeline folders with random weights: one of few steps without shift, and one like FLUX.1-dev."""

from pathlib import Path

import pytest
import torch

from artiagent.checkpoints import checkpoint_ref
from artiagent.nano.flux import build_tokenizers
from artiagent.nano.flux_export import assemble, export_folder
from artiagent.nano.flux_transformer import build_flow
from artiagent.nano.flux_vae import LATENT_CHANNELS, build_vae
from artiagent.records import CheckpointRef


@pytest.fixture(scope="session")
def many_step(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    """With the scheduler of FLUX.1-dev: 28 steps, times shifted by the number of tokens."""
    return _exported(tmp_path_factory.mktemp("flux") / "many-step", few=False)


@pytest.fixture(scope="session")
def few_step(tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    """With the scheduler of FLUX.1-schnell: 4 steps, times not shifted."""
    return _exported(tmp_path_factory.mktemp("flux") / "few-step", few=True)


def _exported(folder: Path, few: bool) -> CheckpointRef:
    from diffusers import FlowMatchEulerDiscreteScheduler

    clip, t5 = build_tokenizers(["a red dog on grass", "a blue cat"])
    flow = build_flow(clip, t5, 4 * LATENT_CHANNELS, seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in flow.parameters():  # output layers of zeros would hide every mistake
        torch.nn.init.normal_(parameter, std=0.08, generator=generator)
    pipe = assemble(build_vae((8, 8, 8)), flow, clip, t5, torch.float32)
    if few:
        pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0))
    export_folder(pipe, folder, {})
    return checkpoint_ref(folder.name, str(folder))
