"""The perception stage: input sets -> scenes, a window of images at a time, resumable, by any number of processes.

Every different image is one batch of the writer, whether it yields a scene or not, so a killed run repeats at most a
window. Images that cannot be used never stop the run: they are named in ``skipped.json`` with a reason code.

Copies of an image yield one scene, that of the first usable one in reading order: a later copy may be the annotated
one. A shard's share is a block of contents, not of files, so all copies of an image are in one shard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from tqdm import tqdm

from artiagent import images
from artiagent.config import InputSet, PerceptionSection
from artiagent.parts import CHUNKS, clear
from artiagent.perception.intake import IntakeError, take_in
from artiagent.perception.inventory import Inventory, inventory_of, source_id
from artiagent.perception.perceiver import Look, Perceiver, Skip
from artiagent.perception.sources import SourceError, SourceImage, iter_images
from artiagent.records import AgentCall, CheckpointRef, DatasetRef, Scene, stable_hash
from artiagent.shards import Shard
from artiagent.store import DatasetWriter, Row, open_dataset
from artiagent.vlm.calls import Ledger, keep_calls

SKIPPED = "skipped.json"
_CHANGED = "the images changed since they were listed; leave them alone, and start a new run"


class PerceptionError(ValueError):
    """No scene could be made; the message gives the reasons."""


def perceive(
    section: PerceptionSection,
    sets: Sequence[InputSet],
    out: Path,
    base: CheckpointRef | None = None,
    shard: Shard | None = None,
    listed: Path | None = None,
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
        shard: perceive this shard's share and return the part; a call without one joins the parts, or perceives
            whatever is in none. Joining loads no model and opens no image.
        listed: folder, named by the content of the sets, that keeps their inventory; None: taken anew, which reads
            every image once.

    Raises SourceError, AnnotationError (before anything is written), PerceptionError when no image is usable (nothing
    is left behind), VlmUnavailable when a server does not answer, StoreError when ``out`` cannot be written (finished
    images stay and are not repeated) or was begun with other images or settings.
    """
    if complete := open_dataset(out):
        return complete
    _check_names(sets)
    inventory = inventory_of(sets, listed)
    writer: DatasetWriter[Scene] = DatasetWriter(out, "scenes", ("image",), identity(section, inventory, base), shard)
    sources = inventory.sources
    share = sources if shard is None else [sources[i] for i in shard.part(len(sources))]
    due = {one for one in share if one not in writer}
    if due:
        _perceive_due(section, sets, base, inventory, writer, due)
    return _finish(writer, sets, inventory) if shard is None else writer.seal()


def _perceive_due(
    section: PerceptionSection,
    sets: Sequence[InputSet],
    base: CheckpointRef | None,
    inventory: Inventory,
    writer: DatasetWriter[Scene],
    due: Collection[str],
) -> None:
    """Write a batch for every content that is due."""
    names = [{name: one for name, one in listed.images.items() if one in due} for listed in inventory.sets]
    asked = [(source, due_here) for source, due_here in zip(sets, names, strict=True) if due_here]
    try:
        perceiver = Perceiver.load(section, [source for source, _ in asked], base)
    except ValueError:
        _withdraw(writer)
        raise
    ledger = Ledger(perceiver.vlm)
    with tqdm(total=len(due), desc="perceive", unit="image") as progress:
        for source, due_here in asked:
            _Passage(perceiver, source, due_here, writer, ledger, progress).run()


class _Passage:
    """One set's images on their way into the data set, a window of different contents at a time."""

    def __init__(
        self,
        perceiver: Perceiver,
        source: InputSet,
        names: dict[str, str],
        writer: DatasetWriter[Scene],
        ledger: Ledger,
        progress: tqdm,
    ) -> None:
        """``names``: file name -> source id of what is due."""
        self.perceiver, self.source, self.ids = perceiver, source, names
        self.writer, self.ledger, self.progress = writer, ledger, progress
        self.copies: dict[str, list[str]] = {}  # in reading order
        for name, one in names.items():
            self.copies.setdefault(one, []).append(name)
        self.refused: dict[str, dict[str, str]] = {}  # source id -> copies without a scene -> why
        self.lost: dict[str, list[AgentCall]] = {}  # source id -> calls about those copies
        self.skipped = 0

    def run(self) -> None:
        """Look at every due image; of copies at one after the other, until one is usable."""
        looks: dict[str, Look] = {}
        for image in iter_images(self.source, self.ids):
            one = self.ids[image.name]
            if one in looks:
                self._see(looks)
            if one not in self.copies:  # a copy of a scene
                continue
            try:
                looks[one] = self._look(one, image)
            except IntakeError as error:
                self._refuse(one, image.name, f"decode_error: {error.reason}")
            if len(looks) >= self.perceiver.section.window:
                self._see(looks)
        self._see(looks)
        if self.copies:
            gone = next(name for names in self.copies.values() for name in names)
            raise SourceError(f"input set {self.source.name!r}: {gone}: is not there any more; {_CHANGED}")

    def _look(self, one: str, image: SourceImage) -> Look:
        try:
            data = image.read()
        except OSError as error:
            raise SourceError(
                f"input set {self.source.name!r}: {image.name}: cannot be read any more ({error.strerror}); run again, "
                "finished images stay"
            ) from error
        if source_id(self.source, data) != one:
            raise SourceError(f"input set {self.source.name!r}: {image.name}: holds other bytes; {_CHANGED}")
        return Look(one, image.name, image.subject, take_in(data, image.name, self.perceiver.section))

    def _see(self, looks: dict[str, Look]) -> None:
        """Perceive the window and write what is decided; empties it."""
        if not looks:
            return
        self.perceiver.see(self.source, list(looks.values()))
        for one, look in looks.items():
            try:
                if look.reason:
                    raise Skip(look.reason)
                scene = self.perceiver.scene(self.source, look)
            except Skip as skip:
                self.lost.setdefault(one, []).extend(look.calls)
                self._refuse(one, look.name, ": ".join(skip.args))
            else:
                self._keep(one, look, scene)
        looks.clear()

    def _keep(self, one: str, look: Look, scene: Scene) -> None:
        refused = self.refused.pop(one, {})
        later = [name for name in self.copies[one] if name not in refused and name != look.name]
        refused |= dict.fromkeys(later, f"duplicate: same bytes as {look.name}")
        counts = {"entities": len(scene.entities), "parts": sum(len(entity.parts) for entity in scene.entities)}
        counts |= {f"dropped:{reason}": number for reason, number in scene.dropped.items()}
        row = Row(one, scene, {"image": images.encode(look.taken.pixels)})
        self._write(one, [row], look.calls, refused, {"images": 1, **counts})

    def _refuse(self, one: str, name: str, reason: str) -> None:
        """Note why a copy yields no scene; with the last one the content is decided."""
        refused = self.refused.setdefault(one, {})
        refused[name] = reason
        if len(refused) == len(self.copies[one]):
            self._write(one, [], [], self.refused.pop(one), {})

    def _write(
        self, one: str, rows: list[Row[Scene]], calls: list[AgentCall], refused: dict[str, str], counts: dict[str, int]
    ) -> None:
        skipped = {f"{self.source.name}/{name}": reason for name, reason in refused.items()}
        calls = [*self.lost.pop(one, []), *calls]
        self.writer.write(one, rows, self.ledger.note(calls) | {"skipped": skipped, "counts": counts})
        del self.copies[one]
        self.skipped += len(refused)
        self.progress.set_postfix(skipped=self.skipped, refresh=False)
        self.progress.update()


def identity(section: PerceptionSection, inventory: Inventory, base: CheckpointRef | None) -> str:
    """Identity of the scenes: settings, images and model."""
    return stable_hash(section.digest(), inventory.digest, base.sha256 if base else "", length=12)


def _finish(writer: DatasetWriter[Scene], sets: Sequence[InputSet], inventory: Inventory) -> DatasetRef:
    """Join what is there from the notes of its batches."""
    skipped = {f"{one.name}/{name}": reason for one in inventory.sets for name, reason in one.skipped.items()}
    counts: Counter[str] = Counter()
    for batch in sorted(writer.done):
        note = writer.note(batch)
        skipped |= note["skipped"]
        counts.update(note["counts"])
    if not counts["images"]:
        clear(writer.directory, set())
        _withdraw(writer)
        raise PerceptionError(_nothing_usable(sets, skipped))
    listing = json.dumps(skipped, indent=1, sort_keys=True, ensure_ascii=False)
    writer.attach(SKIPPED, listing.encode())
    counts["skipped"] = len(skipped)
    return writer.finish({**dict(sorted(counts.items())), **keep_calls(writer)})


def _withdraw(writer: DatasetWriter[Scene]) -> None:
    """Take away the folders that the writer made, as far as nothing is in them."""
    for folder in (writer.chunks, writer.directory / CHUNKS, writer.directory):
        with suppress(OSError):
            folder.rmdir()


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
    shown = "".join(f"\n  {name}: {reason}" for name, reason in sorted(skipped.items())[:5])
    places = ", ".join(source.images for source in sets)
    codes = Counter(reason.split(":")[0] for reason in skipped.values())
    counted = ", ".join(f"{code} {n}" for code, n in codes.most_common())
    return f"none of the images of {places} is usable ({len(skipped)} skipped: {counted}):{shown}"
