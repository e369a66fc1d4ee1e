"""Pushes a derived data set, its card included, to its own DVC remote and keeps a pointer per digest.

The derived sets live in a DVC repository of their own (no git) below the project's home, apart from ``data.dvc``:
inputs are never rewritten by a run and ``git status`` stays clean. Publishing the same digest again does nothing. What
was killed goes on with the files that are not there yet. Rows pass as files: none is held in memory, none is copied on
the disk that the home is on. The pointer is kept on the remote as well, so that other machines find the set.

Sets that hold material which must not be used commercially, or not be passed on altered, are published only when that
is acknowledged. Licences that nobody states do not stop anything: most people's own images come without one. They are
named in the card.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from artiagent.checkpoints import model_name
from artiagent.config import Config, InputSet, VlmSection
from artiagent.dataset.card import write_card
from artiagent.dataset.facts import describe
from artiagent.exchange import materialise_all
from artiagent.exchange.remote import CONNECT_SECONDS, READ_SECONDS
from artiagent.licences import LAYOUT_LICENCES, licence_of_model, licence_of_text
from artiagent.parts import CHUNKS, ORIGIN, PARTS
from artiagent.pointers import Pointer, PublishError, find_pointer, is_there, keep_pointer, remote_url, told
from artiagent.records import DatasetRef
from artiagent.store import home, write_atomic

CONFIG = """\
[core]
    no_scm = true
    analytics = false
    autostage = false
    check_update = false
    site_cache_dir = {repository}/.dvc/tmp/site
    remote = derived
[cache]
    type = "reflink,hardlink,copy"
['remote "derived"']
    url = {url}
"""
S3_LIMITS = f"    connect_timeout = {CONNECT_SECONDS}\n    read_timeout = {READ_SECONDS}\n"
JOBS = 2  # files that DVC sends or fetches at a time: it holds up to 500 MB of each of them
ACKNOWLEDGE = (
    "to publish it under those terms all the same, give --acknowledge-noncommercial or set "
    "registry.acknowledge_noncommercial: true"
)
_SCAN = 2**24  # bytes of an annotation file at a time
_OVERLAP = 2**16
_LICENCE = re.compile(rb'"licen[cs]e"\s*:\s*("(?:[^"\\]|\\.)*"|\d+)')
_TABLE = re.compile(rb'"licenses"\s*:\s*(\[[^\]]*\])')


def publish(dataset: DatasetRef, remote: str, repository: Path | None = None, acknowledged: bool = False) -> Pointer:
    """Send a complete data set to the remote and keep its DVC file and pointer; idempotent by digest and remote.

    Its card, ``README.md``, is written beside the shards first and travels with them.

    Args:
        dataset: reference to a complete curated set.
        remote: folder (relative paths count from the project's home) or DVC URL such as ``s3://bucket/prefix``.
        repository: folder of the derived repository; ``<home>/datasets`` by default.
        acknowledged: whoever publishes knows that the set holds restricted material.

    Raises PublishError without the acknowledgement that a set needs, and when DVC fails; no pointer is left then.
    """
    repository = repository or home() / "datasets"
    url = remote_url(remote)
    known = find_pointer(dataset.digest, repository, url)
    if known is not None and known.remote == url and is_there(known):
        keep_pointer(known, repository)
        return known
    facts = describe(dataset)
    restricted = facts.licences.restricted()
    if restricted and not acknowledged:
        raise PublishError(_refusal(f"{dataset.kind} {dataset.digest[:12]}", _counted(restricted)))
    write_card(dataset, Path(dataset.uri), acknowledged=acknowledged, facts=facts)
    name = f"{dataset.kind}-{dataset.digest[:16]}"
    _push(Path(dataset.uri), repository, name, url)
    entry = yaml.safe_load((repository / f"{name}.dvc").read_text())["outs"][0]
    pointer = Pointer(
        kind=dataset.kind, digest=dataset.digest, md5=entry["md5"], path=f"{name}.dvc",
        size=entry["size"], files=entry.get("nfiles", 1), remote=url, rows=dataset.rows, acknowledged=restricted,
        lineage=facts.lineage,
    )  # fmt: skip
    keep_pointer(pointer, repository)
    return pointer


def pull(pointer: Pointer, repository: Path | None = None) -> Path:
    """Folder of a published set, fetched from its remote when it is not there. Raises PublishError when DVC fails."""
    repository = repository or home() / "datasets"
    point_at(pointer, repository)
    dvc(repository, "pull", "--quiet", "--jobs", str(JOBS), pointer.path)
    return repository / pointer.path.removesuffix(".dvc")


def point_at(pointer: Pointer, repository: Path) -> None:
    """Make the repository one that knows the pointer's remote and its DVC file."""
    configure(repository, pointer.remote)
    entry = {"md5": pointer.md5, "size": pointer.size, "nfiles": pointer.files, "hash": "md5"}
    text = yaml.safe_dump({"outs": [{**entry, "path": pointer.path.removesuffix(".dvc")}]}, sort_keys=False)
    path = repository / pointer.path
    if not path.is_file() or path.read_text() != text:
        write_atomic(path, text.encode())


def configure(repository: Path, url: str) -> None:
    """Write the repository's DVC configuration."""
    text = CONFIG.format(repository=repository.resolve(), url=url) + (S3_LIMITS if url.startswith("s3://") else "")
    write_atomic(repository / ".dvc" / "config", text.encode())


def _push(folder: Path, repository: Path, name: str, url: str) -> None:
    """Have DVC record and push the folder's files.

    It works on links to them in a repository of its own, which a killed predecessor may have left: what that had sent
    is not sent again.
    """
    told(lambda: materialise_all(folder))
    work = repository / ".pushing" / name
    shutil.rmtree(work / name, ignore_errors=True)
    modes = {}
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if path.is_file() and not below.parts[0].startswith(".") and below.parts[0] not in (CHUNKS, PARTS, ORIGIN):
            modes[path] = path.stat().st_mode
            (work / name / below).parent.mkdir(parents=True, exist_ok=True)
            _link(path, work / name / below)
    configure(work, url)
    dvc(work, "add", "--quiet", "--no-relink", name)
    dvc(work, "push", "--quiet", "--jobs", str(JOBS), f"{name}.dvc")
    for path, mode in modes.items():
        path.chmod(mode)  # DVC protects what it has links to
    write_atomic(repository / f"{name}.dvc", (work / f"{name}.dvc").read_bytes())
    shutil.rmtree(work, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


def check_publishable(config: Config) -> None:
    """Before any work: raise PublishError when what is configured will need an acknowledgement that is not given.

    Looks at the licences of sets (their own, those that their annotation files name, those of their layouts) and at
    every model that will take part. Filters and skipped images are not considered; ``publish`` counts what is there.
    """
    if config.registry.acknowledge_noncommercial:
        return
    stated = {f"input set {s.name!r}: {text}": text for s in config.inputs.sets for text in _licences_of(s)}
    stated |= {f"{role} {model_name(at)}: {name}": name for role, at, name in _models_of(config)}
    if restricted := [what for what, text in stated.items() if licence_of_text(text).restricted]:
        raise PublishError(_refusal("what is configured", restricted))


def _licences_of(source: InputSet) -> set[str]:
    """What images of a set may be licensed under, as far as it is stated anywhere."""
    from artiagent.perception.sources import locate_annotations, locate_images

    files = []
    if source.annotations is not None:
        files = [locate_annotations(source)]
    elif source.layout == "coco":
        files = sorted((locate_images(source) / "annotations").glob("instances_*.json"))
    named = set().union(*(licences_named(file) for file in files))
    return named | ({source.licence} if source.licence else set()) or {LAYOUT_LICENCES.get(source.layout, "unknown")}


def licences_named(annotations: Path) -> set[str]:
    """Licences that images of a COCO file name, read as a stream of bytes: such a file may be larger than memory."""
    values: set[bytes] = set()
    table: bytes = b"[]"
    tail = b""
    with annotations.open("rb") as file:
        while block := file.read(_SCAN):
            text = tail + block
            values.update(_LICENCE.findall(text))
            table = next(iter(_TABLE.findall(text)), table)
            tail = text[-_OVERLAP:]
    try:
        names = {str(entry.get("id")): str(entry.get("name")) for entry in json.loads(table)}
        return {names.get(str(value), str(value)) for value in map(json.loads, values)} - {""}
    except (ValueError, AttributeError) as error:
        raise PublishError(f"{annotations}: its licences cannot be read ({error}); expected COCO JSON") from error


def _models_of(config: Config) -> Iterator[tuple[str, str, str]]:
    """Role, location and licence of every model that leaves something in the data."""
    base = config.inputs.vlm
    roles = [("generator", config.inputs.generator)]
    perception, curation = config.perception, config.curation
    if perception.grounding != "annotations":
        roles += [("detector", perception.detection.detector), ("segmenter", perception.detection.segmenter)]
    if perception.vocabulary != "template":
        roles.append(("perception", _vlm(perception.vlm, base)))
    if curation.judge != "none":
        roles.append(("judge", _vlm(curation.vlm, base)))
    if curation.explain == "vlm":
        roles.append(("writer", _vlm(curation.vlm, base)))
    yield from ((role, location, licence_of_model(location).name) for role, location in roles)


def _vlm(section: VlmSection, base: str) -> str:
    return section.model or (base if section.backend == "local" else "")


def _counted(rows: Mapping[str, int]) -> list[str]:
    return [f"{n} rows {what}" for what, n in rows.items()]


def _refusal(subject: str, restricted: list[str]) -> str:
    listing = "".join(f"\n  {what}" for what in restricted)
    return (
        f"{subject} holds material that is not free for commercial use or must not be altered:{listing}\n{ACKNOWLEDGE}"
    )


def dvc(repository: Path, *arguments: str) -> None:
    """Run DVC in the repository. Raises PublishError with the command and its own last word."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines()
        raise PublishError(f"dvc {' '.join(arguments)} (in {repository}): {reason[-1] if reason else 'failed'}")
