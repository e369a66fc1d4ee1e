"""What this machine has and lacks: interpreter, packages, device, weights, data remotes, credentials.

Credentials are reported as present or absent, never shown. Nothing is contacted over a network.
"""

from __future__ import annotations

import configparser
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import psutil

from artiagent.checkpoints import locate
from artiagent.config import Config
from artiagent.perception.sources import locate_annotations, locate_images, locate_parts
from artiagent.store import checkout, home

PACKAGES = ("torch", "diffusers", "transformers", "trl", "peft", "zenml", "mlflow", "dvc", "artiagent")
CREDENTIALS = {
    "HF_TOKEN": "gated hub models",
    "AWS_ACCESS_KEY_ID": "S3 remotes",
    "OPENAI_API_KEY": "OpenAI-compatible servers",
    "MLFLOW_TRACKING_URI": "a tracking server instead of SQLite",
}
DISK_GB, MEMORY_GB = 5, 8


class Finding(NamedTuple):
    """One line: ``ok`` is None where nothing is required."""

    topic: str
    name: str
    value: str
    ok: bool | None


def examine(config: Config) -> int:
    """Print every finding; 0 when all that is required is there, 1 otherwise."""
    findings = list(diagnose(config))
    for f in findings:
        mark = {True: "ok", False: "MISSING", None: "-"}[f.ok]
        print(f"{f.topic:<12} {f.name:<22} {mark:<8} {f.value}")
    wanting = [f.name for f in findings if f.ok is False]
    print(
        f"{len(wanting)} problems: {', '.join(wanting)}"
        if wanting
        else "everything that the configuration needs is here"
    )
    return int(bool(wanting))


def diagnose(config: Config) -> Iterator[Finding]:
    """All findings, cheap ones first."""
    yield Finding("python", platform.python_version(), sys.executable, sys.version_info >= (3, 11))
    yield from _machine()
    yield from _packages()
    yield _device()
    yield from _inputs(config)
    yield from _agents(config)
    yield from _remotes(config)
    for name, purpose in CREDENTIALS.items():
        yield Finding("credential", name, f"{'set' if os.environ.get(name) else 'not set'} ({purpose})", None)


def _machine() -> Iterator[Finding]:
    memory = psutil.virtual_memory().total / 2**30
    place = home() if home().exists() else Path.cwd()
    free = shutil.disk_usage(place).free / 2**30
    yield Finding("machine", "processors", f"{os.cpu_count()} cores, {platform.machine()}", None)
    yield Finding("machine", "memory", f"{memory:.1f} GiB (nano needs {MEMORY_GB})", memory >= MEMORY_GB - 0.5)
    yield Finding("machine", "disk", f"{free:.1f} GiB free for {place} (nano needs {DISK_GB})", free >= DISK_GB)
    yield Finding("machine", "git", shutil.which("git") or "not on PATH", shutil.which("git") is not None)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("package", name, metadata.version(name), True)
        except metadata.PackageNotFoundError:
            yield Finding("package", name, "not installed; 'make setup' installs the lock", False)


def _device() -> Finding:
    import torch

    if not torch.cuda.is_available():
        return Finding("device", "cpu", f"no GPU visible, {torch.get_num_threads()} threads", None)
    properties = torch.cuda.get_device_properties(0)
    return Finding("device", "cuda", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB", True)


def _inputs(config: Config) -> Iterator[Finding]:
    for name in ("generator", "vlm", "clip", "sampler", "inpainter", *(["parser"] if config.inputs.parser else [])):
        yield _present("weights", name, partial(locate, getattr(config.inputs, name)))
    for benchmark in config.inputs.benchmarks:
        yield _present("data", f"benchmark {benchmark.name}", partial(locate, benchmark.path, kind="dataset"))
    for source in config.inputs.sets:
        yield _present("data", f"{source.name} images", partial(locate_images, source))
        if source.annotations:
            yield _present("data", f"{source.name} annotations", partial(locate_annotations, source))
        if source.parts:
            yield _present("data", f"{source.name} parts", partial(locate_parts, source))


def _agents(config: Config) -> Iterator[Finding]:
    """Weights and credentials that perception and curation ask for beyond the inputs."""
    detection = config.perception.detection
    if config.perception.grounding != "annotations":
        for name in ("detector", "segmenter"):
            yield _present("weights", name, partial(locate, getattr(detection, name)))
    used = {"perception": config.perception.vocabulary != "template"}
    used["curation"] = config.curation.judge != "none" or config.curation.explain == "vlm"
    for stage in (name for name, asked in used.items() if asked):
        vlm = getattr(config, stage).vlm
        if vlm.backend == "openai":
            key = "set" if os.environ.get(vlm.api_key_env) else "not set; fine for a server without keys"
            yield Finding("agent", f"{stage}.vlm", f"{vlm.base_url}, {vlm.api_key_env} {key}", None)
        elif vlm.model:
            yield _present("weights", f"{stage}.vlm", partial(locate, vlm.model))
    weights = config.curation.lpips_weights
    if config.curation.metric != "ssim" and weights not in (None, "hub"):
        yield _present("weights", "lpips", partial(locate, weights))
    elif config.curation.metric != "ssim":
        yield Finding("weights", "lpips", "torch hub's cache or download" if weights else "none: ssim, by name", None)


def _present(topic: str, name: str, find: Callable[[], Path]) -> Finding:
    try:
        return Finding(topic, name, str(find()), True)
    except ValueError as error:
        return Finding(topic, name, str(error).splitlines()[0], False)


def _remotes(config: Config) -> Iterator[Finding]:
    if (root := checkout()) is not None:
        parser = configparser.ConfigParser()
        parser.read(root / ".dvc" / "config")
        for section in parser.sections():
            if section.strip("'").startswith("remote "):
                url = parser[section]["url"]
                found = "://" in url or (root / ".dvc" / url).resolve().is_dir()
                yield Finding("remote", section.strip("'").split()[1].strip('"'), url, found)
        yield Finding("data", "data.dvc", "pins data/", (root / "data.dvc").is_file())
    yield Finding("remote", "derived", config.registry.dataset_remote, None)
