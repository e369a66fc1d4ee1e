"""Command lines of the servers that a model folder can be given to.

Knows their options. Starts nothing. No server executes code out of a model folder: none gets ``--trust-remote-code``.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from artiagent.config import EvaluationSection
from artiagent.records import CheckpointRef

Backend = Literal["transformers", "vllm"]
BACKENDS: tuple[Backend, ...] = Backend.__args__
_HINTS = {
    "transformers": "pip install 'transformers[serving]' (part of the extra 'dev')",
    "vllm": "pip install vllm, into an environment of its own (it pins torch) with a GPU",
}


class Listen(NamedTuple):
    host: str
    port: int


def command_line(backend: Backend, model: CheckpointRef, section: EvaluationSection, listen: Listen) -> list[str]:
    """The server's command, program first.

    Args:
        backend: whose.
        model: folder of the merged model in its standard form, processor included.
        section: device and type of numbers.
        listen: host and port.
    """
    make = {"transformers": _transformers, "vllm": _vllm}[backend]
    return [program(backend) or backend, "serve", model.uri, "--host", listen.host, "--port", str(listen.port)] + make(
        model, section
    )


def program(backend: Backend) -> str | None:
    """Path of the backend's program beside this Python or on the PATH, None where it is not installed."""
    beside = Path(sys.executable).with_name(backend)
    if backend == "transformers" and not (find_spec("fastapi") and find_spec("uvicorn")):
        return None
    return str(beside) if beside.is_file() else shutil.which(backend)


def prepare(backend: Backend) -> None:
    """What has to be there before a start. Raises ValueError with the way to install what is missing."""
    if program(backend) is None:
        raise ValueError(f"--backend {backend}: not installed here; {_HINTS[backend]}")
    if backend == "transformers":  # it lists the hub's cache when it is asked for its models, and fails without one
        from huggingface_hub.constants import HF_HUB_CACHE

        Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)


def _transformers(model: CheckpointRef, section: EvaluationSection) -> list[str]:
    return ["--device", section.device, "--dtype", section.dtype, "--no-trust-remote-code"]


def _vllm(model: CheckpointRef, section: EvaluationSection) -> list[str]:
    """One image a question, and never a larger one than the model was trained with."""
    options = ["--served-model-name", model.name, "--dtype", section.dtype]
    options += ["--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0})]
    if (budget := image_budget(Path(model.uri))) is not None:
        options += ["--mm-processor-kwargs", json.dumps({"max_pixels": budget})]
    return options


def image_budget(folder: Path) -> int | None:
    """Largest number of pixels that the folder's processor shows the model, None where it does not say."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            told = json.loads((folder / name).read_text())
            told = told.get("image_processor", told)
            found = (told.get("size") or {}).get("longest_edge") or told.get("max_pixels")
            if isinstance(found, int):
                return found
    return None
