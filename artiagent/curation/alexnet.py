"""The weights of LPIPS: torchvision's AlexNet from a file or torch hub, the linear layers from the package `lpips`.

Knows where weights lie and whether they are the right ones. Does not know crops or windows.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

from artiagent.store import file_sha256

if TYPE_CHECKING:
    import torch

HUB = "hub"
VERSION = "0.1"  # of LPIPS: the linear layers fitted to human judgement, and scaled input
_LINEAR_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"  # lpips/weights/v0.1/alex.pth


class LpipsAbsent(ValueError):
    """LPIPS cannot be had: there are no weights where the configuration says, or the package is not installed."""


def located(weights: str | None) -> Path:
    """The file behind `curation.lpips_weights`; ``hub`` is downloaded once into torch hub's cache, its hash checked.

    Raises LpipsAbsent saying what was looked for.
    """
    if find_spec("lpips") is None:
        raise LpipsAbsent("the package lpips is not installed")
    if weights is None:
        raise LpipsAbsent("curation.lpips_weights is not set")
    if weights == HUB:
        return _from_hub()
    path = Path(weights).expanduser()
    if not path.is_file():
        raise LpipsAbsent(f"{path}: no such file")
    return path


def verified(path: Path, sha256: str | None) -> str:
    """The file's sha256. Raises ValueError when another one is expected."""
    found = file_sha256(path)
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path}: has sha256 {found}, curation.lpips_sha256 is {sha256}; one of them is the wrong one")
    return found


def lpips_model(weights: Path) -> torch.nn.Module:
    """LPIPS with AlexNet's convolutions from the file and the package's own linear layers, float32, on the CPU.

    Raises ValueError for a file that does not hold them.
    """
    import lpips

    state = _state(weights)
    with catch_warnings():
        simplefilter("ignore")  # lpips builds its tower with arguments that torchvision has renamed
        model = lpips.LPIPS(net="alex", version=VERSION, pretrained=False, pnet_rand=True, verbose=False)
    try:
        model.net.load_state_dict(_convolutions(state, list(model.net.state_dict())))
    except KeyError as error:
        raise ValueError(f"{weights}: not torchvision's AlexNet, lacks {error}") from error
    except RuntimeError as error:  # shapes
        raise ValueError(f"{weights}: not torchvision's AlexNet: {error}") from error
    linear = _linear_layers(Path(lpips.__file__).with_name("weights") / f"v{VERSION}" / "alex.pth")
    left = model.load_state_dict(linear, strict=False)
    # `lins` holds the same layers again; only they, the tower and the scaling may be left out
    lacking = [k for k in left.missing_keys if not k.startswith(("lins.", "net.", "scaling_layer."))]
    if lacking or left.unexpected_keys:
        raise ValueError(f"the package lpips has other linear layers than expected: {lacking or left.unexpected_keys}")
    return model.eval().requires_grad_(False)


def _from_hub() -> Path:
    import torch.hub

    url = _hub_url()
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    prefix = path.stem.rsplit("-", 1)[1]  # torchvision names its files by the first digits of their sha256
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=prefix, progress=False)
        except OSError as error:
            raise LpipsAbsent(f"hub: {url} cannot be downloaded: {error}; put the file at {path}") from error
        except RuntimeError as error:
            raise ValueError(f"hub: {url} is not what its name says: {error}") from error
    if not (found := file_sha256(path)).startswith(prefix):
        raise ValueError(f"{path}: damaged (sha256 {found[:12]}, expected {prefix}); delete it and rerun")
    return path


def _hub_url() -> str:
    from torchvision.models import AlexNet_Weights

    return AlexNet_Weights.IMAGENET1K_V1.url


def _convolutions(state: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """AlexNet's convolutions under the names of the LPIPS tower: ``slice2.3.weight`` is ``features.3.weight``."""
    return {name: state[f"features.{name.split('.', 1)[1]}"] for name in names}


def _state(weights: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if weights.suffix == ".safetensors":
            return load_file(weights)
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{weights}: cannot be read as weights ({error}); fetch the file again") from error
    if not isinstance(state, dict):
        raise ValueError(f"{weights}: holds a {type(state).__name__}, expected the state dict of torchvision's AlexNet")
    return state


def _linear_layers(path: Path) -> dict[str, torch.Tensor]:
    if file_sha256(path) != _LINEAR_SHA256:
        raise ValueError(f"{path}: not the linear layers of LPIPS {VERSION} for AlexNet; reinstall the package lpips")
    return _state(path)
