"""The perception stage: input sets -> scenes, one image at a time, resumable.

Every usable image is one batch of the writer, so a killed run repeats at most one. Images that cannot be used never
stop the run: they are named in ``skipped.json`` with a reason code.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from tqdm import tqdm

from artiagent import images
from artiagent.config import InputSet, PerceptionSection
from artiagent.perception.grounding import Grounder, GroundingError
from artiagent.perception.grounding.annotations import AnnotationGrounder
from artiagent.perception.intake import IntakeError, take_in
from artiagent.perception.linking import link
from artiagent.perception.sources import SourceError, SourceImage, image_names, iter_images, locate_annotations
from artiagent.perception.vocabulary import template
from artiagent.records import DatasetRef, Scene, stable_hash
from artiagent.store import DatasetWriter, Row, StoreError, open_dataset, write_atomic

SKIPPED = "skipped.json"
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_PLURALS = {"person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice", "knife": "knives"}


class PerceptionError(ValueError):
    """No scene could be made; the message gives the reasons."""


class _Skip(Exception):
    """This image yields no scene; ``args`` are the reason code and the detail."""


def perceive(section: PerceptionSection, sets: Sequence[InputSet], out: Path) -> DatasetRef:
    """Turn input sets into the data set "scenes" (rows Scene, image column ``image``: PNG after intake).

    Beside it ``skipped.json`` maps "set/file" to "code: detail"; the codes are ``decode_error``, ``duplicate``,
    ``grounding_error``, ``no_vocabulary``, ``no_entity``, and ``missing_file`` for annotations without an image. The
    summary counts images, skipped, entities, parts, and instances left out as ``dropped:<reason>``.

    Raises SourceError, AnnotationError (before anything is written), PerceptionError when no image is usable (nothing
    is left behind), StoreError when ``out`` cannot be written (finished images stay and are not repeated).
    """
    if complete := open_dataset(out):
        return complete
    _check_names(sets)
    names = {source.name: image_names(source) for source in sets}
    grounders = {source.name: AnnotationGrounder(locate_annotations(source)) for source in sets}
    writer: DatasetWriter[Scene] = DatasetWriter(out, "scenes", ("image",))
    skipped: dict[str, str] = {}
    with tqdm(total=sum(map(len, names.values())), desc="perceive", unit="image") as progress:
        for source in sets:
            grounder = grounders[source.name]
            reasons = _perceive_set(section, source, grounder, writer, progress)
            missing = () if source.limit else grounder.without_image(names[source.name])
            reasons |= dict.fromkeys(missing, "missing_file: annotated, but there is no such image")
            skipped |= {f"{source.name}/{name}": reason for name, reason in reasons.items()}
    if not writer.done:
        _remove_empty(writer)
        raise PerceptionError(_nothing_usable(sets, skipped))
    return _finish(writer, skipped)


def describe(names: Sequence[str]) -> str:
    """Template caption from entity names: ``["dog", "cat", "dog"]`` -> "two dogs and a cat"."""
    phrases = [_phrase(name, count) for name, count in Counter(names).items()]
    return " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))


def _perceive_set(
    section: PerceptionSection, source: InputSet, grounder: Grounder, writer: DatasetWriter[Scene], progress: tqdm
) -> dict[str, str]:
    """Write the set's scenes that are not there yet. Returns file name -> reason of the skipped ones."""
    done = writer.done
    skipped: dict[str, str] = {}
    seen: dict[str, str] = {}
    for image in iter_images(source):
        try:
            data = _read(image)
            content = stable_hash(data)
            if content in seen:
                raise _Skip("duplicate", f"same bytes as {seen[content]}")
            source_id = f"{source.name}-{stable_hash(data, length=12)}"  # also the batch id: every stage sorts alike
            if source_id not in done:
                writer.write(source_id, [_see(section, source, source_id, image.name, data, grounder)])
            seen[content] = image.name  # only usable images count: a later copy may be the annotated one
        except _Skip as skip:
            skipped[image.name] = ": ".join(skip.args)
        except IntakeError as error:
            skipped[image.name] = f"decode_error: {error.reason}"
        except GroundingError as error:
            skipped[image.name] = f"grounding_error: {error}"
        progress.set_postfix(skipped=len(skipped), refresh=False)
        progress.update()
    return skipped


def _read(image: SourceImage) -> bytes:
    try:
        return image.read()
    except OSError as error:
        raise IntakeError(image.name, f"cannot be read ({error.strerror})") from error


def _see(
    section: PerceptionSection, source: InputSet, source_id: str, name: str, data: bytes, grounder: Grounder
) -> Row[Scene]:
    """One image file through the four steps of perception: intake, vocabulary, grounding, linking."""
    taken = take_in(data, name, section)
    grounding = grounder.ground(taken, name, None)
    vocabulary = template(grounding.instances, section.containment)
    if not vocabulary.entities:
        raise _Skip("no_vocabulary", f"{len(grounding.instances)} instances, no entity with a visible part")
    entities, dropped = link(grounding.instances, vocabulary, section)
    if not entities:
        raise _Skip("no_entity", f"none covers {section.entity_min_share:.0%} of the image")
    width, height = taken.transform.size
    scene = Scene(
        source_id=source_id,
        group=source.name,
        scored=source.scored,
        width=width,
        height=height,
        image_sha256=hashlib.sha256(taken.pixels.tobytes()).hexdigest(),
        caption=grounding.caption or describe([entity.name for entity in entities]),
        entities=entities,
        licence=grounding.licence,
        origin=name,
        grounding=section.grounding,
        dropped=dict(sorted((dropped + grounding.dropped).items())),
    )
    return Row(scene.source_id, scene, {"image": images.encode(taken.pixels)})


def _finish(writer: DatasetWriter[Scene], skipped: dict[str, str]) -> DatasetRef:
    listing = json.dumps(skipped, indent=1, sort_keys=True, ensure_ascii=False)
    try:
        write_atomic(writer.directory / SKIPPED, listing.encode())
    except OSError as error:
        raise StoreError(f"{writer.directory}: cannot write {SKIPPED} ({error}); rerun resumes it") from error
    counts: Counter[str] = Counter({"skipped": len(skipped)})
    for scene in _written(writer):
        counts.update(images=1, entities=len(scene.entities), parts=sum(len(entity.parts) for entity in scene.entities))
        counts.update({f"dropped:{reason}": number for reason, number in scene.dropped.items()})
    return writer.finish(dict(sorted(counts.items())))


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
    return f"none of the images of {places} is usable ({len(skipped)} skipped):{shown}"


def _phrase(name: str, count: int) -> str:
    if count == 1:
        return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
    ending = "es" if name.endswith(("s", "x", "z", "ch", "sh")) else "s"
    return f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {_PLURALS.get(name, name + ending)}"
