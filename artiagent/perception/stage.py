"""The perception stage: input sets -> scenes, a window of images at a time, resumable.

Every usable image is one batch of the writer, so a killed run repeats at most a window. Images that cannot be used
never stop the run: they are named in ``skipped.json`` with a reason code.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from artiagent import images
from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.intake import IntakeError, take_in
from artiagent.perception.perceiver import Look, Perceiver, Skip
from artiagent.perception.sources import SourceError, SourceImage, image_names, iter_images, left_out
from artiagent.records import CheckpointRef, DatasetRef, Scene, stable_hash
from artiagent.store import DatasetWriter, Row, StoreError, open_dataset, write_atomic
from artiagent.vlm.calls import keep_calls, noted

SKIPPED = "skipped.json"


class PerceptionError(ValueError):
    """No scene could be made; the message gives the reasons."""


def perceive(
    section: PerceptionSection, sets: Sequence[InputSet], out: Path, base: CheckpointRef | None = None
) -> DatasetRef:
    """Turn input sets into the data set "scenes" (rows Scene, image column ``image``: PNG after intake).

    Beside it ``skipped.json`` maps "set/file" to "code: detail"; the codes are ``decode_error``, ``duplicate``,
    ``grounding_error``, ``no_vocabulary``, ``no_entity``, ``vlm_error``, and those of ``sources.left_out``.
    ``calls.parquet`` holds every call of an agent. The summary counts images, skipped, entities, parts, and instances
    left out as ``dropped:<reason>``.

    Args:
        section: intake, vocabulary, grounding and linking.
        sets: where images come from.
        out: folder of the data set.
        base: model folder of a local VLM for which the section names no model.

    Raises SourceError, AnnotationError (before anything is written), PerceptionError when no image is usable (nothing
    is left behind), VlmUnavailable when a server does not answer, StoreError when ``out`` cannot be written (finished
    images stay and are not repeated).
    """
    if complete := open_dataset(out):
        return complete
    _check_names(sets)
    totals = {source.name: len(image_names(source)) for source in sets}
    perceiver = Perceiver.load(section, sets, base)
    writer: DatasetWriter[Scene] = DatasetWriter(out, "scenes", ("image",))
    skipped: dict[str, str] = {}
    with tqdm(total=sum(totals.values()), desc="perceive", unit="image") as progress:
        for source in sets:
            reasons = _perceive_set(perceiver, source, writer, progress) | left_out(source)
            skipped |= {f"{source.name}/{name}": reason for name, reason in reasons.items()}
    if not writer.done:
        _remove_empty(writer)
        raise PerceptionError(_nothing_usable(sets, skipped))
    return _finish(writer, skipped, perceiver)


def _perceive_set(
    perceiver: Perceiver, source: InputSet, writer: DatasetWriter[Scene], progress: tqdm
) -> dict[str, str]:
    """Write the set's scenes that are not there yet. Returns file name -> reason of the skipped ones."""
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}  # only usable images count: a later copy may be the annotated one
    stream = iter_images(source)
    while window := list(islice(stream, perceiver.section.window)):
        looks = _take_in(perceiver.section, source, window, writer, seen, skipped)
        perceiver.see(source, looks)
        for look in looks:
            _settle(perceiver, source, look, writer, seen, skipped)
        progress.set_postfix(skipped=len(skipped), refresh=False)
        progress.update(len(window))
    return skipped


def _take_in(
    section: PerceptionSection,
    source: InputSet,
    window: list[SourceImage],
    writer: DatasetWriter[Scene],
    seen: dict[str, str],
    skipped: dict[str, str],
) -> list[Look]:
    """Decoded images of the window that have no scene yet."""
    looks = []
    for image in window:
        try:
            data = _read(image)
            source_id = f"{source.name}-{stable_hash(data, length=12)}"  # also the batch id: every stage sorts alike
            if source_id in seen:
                raise Skip("duplicate", f"same bytes as {seen[source_id]}")
            if source_id in writer:
                seen[source_id] = image.name
                continue
            looks.append(Look(source_id, image.name, image.subject, take_in(data, image.name, section)))
        except Skip as skip:
            skipped[image.name] = ": ".join(skip.args)
        except IntakeError as error:
            skipped[image.name] = f"decode_error: {error.reason}"
    return looks


def _settle(
    perceiver: Perceiver,
    source: InputSet,
    look: Look,
    writer: DatasetWriter[Scene],
    seen: dict[str, str],
    skipped: dict[str, str],
) -> None:
    """Write the scene of a look, or note why there is none."""
    try:
        if look.source_id in seen:  # of the same window
            raise Skip("duplicate", f"same bytes as {seen[look.source_id]}")
        if look.reason:
            raise Skip(look.reason)
        scene = perceiver.scene(source, look)
    except Skip as skip:
        skipped[look.name] = ": ".join(skip.args)
        perceiver.lost_calls += look.calls
        return
    row = Row(look.source_id, scene, {"image": images.encode(look.taken.pixels)})
    writer.write(look.source_id, [row], noted(look.calls))
    seen[look.source_id] = look.name


def _read(image: SourceImage) -> bytes:
    try:
        return image.read()
    except OSError as error:
        raise IntakeError(image.name, f"cannot be read ({error.strerror})") from error


def _finish(writer: DatasetWriter[Scene], skipped: dict[str, str], perceiver: Perceiver) -> DatasetRef:
    listing = json.dumps(skipped, indent=1, sort_keys=True, ensure_ascii=False)
    try:
        write_atomic(writer.directory / SKIPPED, listing.encode())
    except OSError as error:
        raise StoreError(f"{writer.directory}: cannot write {SKIPPED} ({error}); rerun resumes it") from error
    account = keep_calls(writer, perceiver.vlm, perceiver.lost_calls)
    counts: Counter[str] = Counter({"skipped": len(skipped)})
    for scene in _written(writer):
        counts.update(images=1, entities=len(scene.entities), parts=sum(len(entity.parts) for entity in scene.entities))
        counts.update({f"dropped:{reason}": number for reason, number in scene.dropped.items()})
    return writer.finish({**dict(sorted(counts.items())), **account})


def _written(writer: DatasetWriter[Scene]) -> Iterator[Scene]:
    """Scenes on disk before ``finish``: a resumed run counts those of its predecessors as well."""
    for chunk in sorted(writer.chunks.glob("*.parquet")):
        for record in pq.read_table(chunk, columns=["record"])["record"].to_pylist():
            yield Scene.model_validate_json(record)


def _remove_empty(writer: DatasetWriter[Scene]) -> None:
    shutil.rmtree(writer.chunks)
    if not any(writer.directory.iterdir()):
        writer.directory.rmdir()


def _check_names(sets: Sequence[InputSet]) -> None:
    names = [source.name for source in sets]
    for name in names:
        if not name.replace("-", "").replace("_", "").isalnum():
            raise SourceError(f"input set name {name!r}: expected letters, digits, '-' and '_'")
        if names.count(name) > 1:
            raise SourceError(f"input set name {name!r} is used twice; names must be unique")
    if not names:
        raise SourceError("no input sets given; expected at least one under inputs.sets")


def _nothing_usable(sets: Sequence[InputSet], skipped: dict[str, str]) -> str:
    shown = "".join(f"\n  {name}: {reason}" for name, reason in list(skipped.items())[:5])
    places = ", ".join(source.images for source in sets)
    codes = Counter(reason.split(":")[0] for reason in skipped.values())
    counted = ", ".join(f"{code} {n}" for code, n in codes.most_common())
    return f"none of the images of {places} is usable ({len(skipped)} skipped: {counted}):{shown}"
