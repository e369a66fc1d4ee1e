"""The contracts: every record that crosses a module boundary.

Knows the shape of the data. Does not know how it is computed, stored or orchestrated, and imports nothing of ours.

Coordinates: boxes are (x0, y0, x1, y1) in pixels of the image after intake, x1 and y1 exclusive. Patch indices are
row-major on the token grid ``(rows, cols)``.
"""

from __future__ import annotations

import hashlib
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 1

Layer = Literal["peripheral", "intermediate", "both"]
Tool = Literal["add", "remove", "distort", "fuse", "benign"]
Kernel = Literal["", "shuffle", "jitter", "strip", "background"]
Reason = Literal[
    "no_vocabulary", "no_parent", "too_small", "no_candidate", "too_similar", "too_damaged",
    "change_outside", "judge_rejected", "vlm_error", "decode_error",
]  # fmt: skip
ARTIFACT_TOOLS: tuple[Tool, ...] = ("add", "remove", "distort", "fuse")
FAULT_OF_TOOL: dict[str, str] = {
    "add": "duplication", "remove": "omission", "distort": "distortion", "fuse": "fusion"
}  # fmt: skip


class Record(BaseModel):
    """Base of all records: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Box(NamedTuple):
    """Axis-aligned box in pixels; x1 and y1 are exclusive. Serialises as ``[x0, y0, x1, y1]``."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def area(self) -> int:
        return max(0, self.x1 - self.x0) * max(0, self.y1 - self.y0)

    @property
    def slices(self) -> tuple[slice, slice]:
        """``image[box.slices]`` is the crop."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def clip(self, width: int, height: int) -> Box:
        return Box(*(min(max(v, 0), m) for v, m in zip(self, (width, height, width, height), strict=True)))

    def pad(self, margin: int, width: int, height: int) -> Box:
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin).clip(width, height)

    def iou(self, other: Box) -> float:
        inter = Box(max(self.x0, other.x0), max(self.y0, other.y0), min(self.x1, other.x1), min(self.y1, other.y1))
        shared = inter.area
        union = self.area + other.area - shared
        return shared / union if union else 0.0


class Mask(Record):
    """Binary mask as COCO compressed RLE. ``size`` is (height, width)."""

    size: tuple[int, int]
    counts: str

    @classmethod
    def encode(cls, array: np.ndarray) -> Mask:
        """Encode a bool array of shape [H, W]."""
        from pycocotools import mask as coco_mask

        rle = coco_mask.encode(np.asfortranarray(array.astype(np.uint8)))
        return cls(size=(int(array.shape[0]), int(array.shape[1])), counts=rle["counts"].decode("ascii"))

    def decode(self) -> np.ndarray:
        """Return the bool array of shape [H, W]."""
        from pycocotools import mask as coco_mask

        return coco_mask.decode({"size": list(self.size), "counts": self.counts.encode("ascii")}).astype(bool)


class Part(Record):
    """A subentity that belongs to one entity instance."""

    id: str
    name: str
    layer: Layer
    mask: Mask
    box: Box


class Entity(Record):
    """An entity instance; ``mask`` covers the whole instance, parts included."""

    id: str
    name: str
    mask: Mask
    box: Box
    parts: tuple[Part, ...] = ()


class Scene(Record):
    """Perception's result for one source image. The image bytes travel beside the record, column ``image``."""

    source_id: str
    group: str  # name of the input set, e.g. "scenes" or "photos"; scores and yields count only scored groups
    scored: bool = True
    width: int
    height: int
    image_sha256: str  # of the decoded pixels after intake
    caption: str
    entities: tuple[Entity, ...]
    licence: str = "unknown"
    origin: str = ""
    grounding: str = "annotations"
    dropped: dict[str, int] = Field(default_factory=dict)  # reason -> number of entities or parts left out
    agents: dict[str, str] = Field(default_factory=dict)  # task -> "prompt@version#hash model", see vlm.agent


class PatchMapping(Record):
    """``{(p_t, p_r)}``: every target once, references may repeat (spec: synthesis, section 1)."""

    grid: tuple[int, int]
    targets: tuple[int, ...]
    references: tuple[int, ...]

    @model_validator(mode="after")
    def _checked(self) -> PatchMapping:
        cells = self.grid[0] * self.grid[1]
        if len(self.targets) != len(self.references):
            raise ValueError(f"{len(self.targets)} targets, but {len(self.references)} references; expected as many")
        if len(set(self.targets)) != len(self.targets):
            raise ValueError("a target patch occurs twice; every target maps to exactly one reference")
        for name, patches in (("target", self.targets), ("reference", self.references)):
            if patches and not 0 <= min(patches) <= max(patches) < cells:
                raise ValueError(
                    f"{name} patches {min(patches)}..{max(patches)}: expected 0..{cells - 1} on a grid of "
                    f"{self.grid[0]}x{self.grid[1]}"
                )
        return self


class Injection(Record):
    """One planned artifact: a mapping with its provenance."""

    tool: Tool
    kernel: Kernel = ""
    entity: str
    entity_id: str
    part: str = ""
    part_id: str = ""
    other_entity: str = ""  # fusion only
    seed: int
    score: float = 0.0
    mapping: PatchMapping
    params: dict[str, float | int | str] = Field(default_factory=dict)


class Rejection(Record):
    """A typed "no": why a tool, a part or an artifact did not make it."""

    tool: Tool
    reason: Reason
    detail: str = ""


class Job(Record):
    """One row of the global plan: one variant of one source."""

    job_id: str
    source_id: str
    group: str
    scored: bool = True
    variant: int
    seed: int
    prompt: str
    injections: tuple[Injection, ...]

    @property
    def benign(self) -> bool:
        return all(i.tool == "benign" for i in self.injections)


class Artifact(Record):
    """An injected artifact as measured on the pixels, later judged and explained by curation."""

    injection: Injection
    box: Box  # patch box of the targets
    tight_box: Box | None = None  # of what really changed inside the dilated target
    overlap: float = 0.0  # IoU of the two boxes: how well the plan says where the picture changed
    mask: Mask | None = None  # the tight mask
    region: Mask  # feathered region outside which both sides are identical
    change_inside: float = 0.0  # mean |artifact - twin| inside the targets, 0..1
    change_outside: float = 0.0  # same outside the recorded region
    distance: float | None = None  # perceptual distance on the crop
    accepted: bool | None = None  # None: not judged yet
    reason: Reason | None = None
    detail: str = ""
    label: str = ""
    explanation: str = ""


class Pair(Record):
    """Twin and artifact image of one job. Columns ``clean`` and ``artifact`` hold the encoded images."""

    job_id: str
    source_id: str
    group: str
    scored: bool = True
    variant: int
    width: int
    height: int
    prompt: str
    artifacts: tuple[Artifact, ...]
    backbone: str
    backbone_sha256: str
    sampling: dict[str, float | int | str]
    seconds: float = Field(default=0.0, exclude=True)  # of the batch share; never part of a digest
    caption: str = ""
    explanation: str = ""
    pasted_back: int = 0  # artifacts undone by curation
    licence: str = "unknown"  # of the source image
    origin: str = ""  # file name of the source image in its set
    licences: dict[str, str] = Field(default_factory=dict)  # model that took part -> its licence
    agents: dict[str, str] = Field(default_factory=dict)  # task -> "prompt@version#hash model", see vlm.agent

    @property
    def benign(self) -> bool:
        return all(a.injection.tool == "benign" for a in self.artifacts)

    @property
    def accepted(self) -> bool:
        return any(a.accepted for a in self.artifacts)

    @property
    def faults(self) -> tuple[Artifact, ...]:
        """The artifacts that survived curation."""
        return tuple(a for a in self.artifacts if a.accepted)


class AgentCall(Record):
    """One call of an agent to a vision-language model, as it is accounted for and traced."""

    key: str  # what it was about: source id, or job id and artifact
    task: str
    prompt: str  # name@version
    prompt_hash: str
    model: str
    status: str  # ok, repaired, invalid, or why there was no answer
    verdict: str = ""  # the answer in brief
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    cached: bool = False
    attempts: int = 1
    seconds: float = 0.0

    @property
    def stamp(self) -> str:
        """``prompt@version#hash model``, as ``Scene.agents`` and ``Pair.agents`` keep it."""
        return f"{self.prompt}#{self.prompt_hash} {self.model}"


class Turn(Record):
    role: Literal["user", "assistant"]
    text: str


class Conversation(Record):
    """Multi-turn training sample about one image; column ``image`` holds the encoded image.

    Boxes inside the turns are not converted yet: turns carry templates with ``{box:k}`` placeholders that a
    CoordinateSpace fills at the last moment from ``boxes`` (source pixels).
    """

    conversation_id: str
    pair_id: str  # both sides of a pair share it
    source_id: str
    split: Literal["train", "val"]
    faulty: bool
    benign_of: str = ""
    width: int
    height: int
    boxes: tuple[Box, ...]
    turns: tuple[Turn, ...]


class Prediction(Record):
    """One model's answers on one benchmark item; stored under the key ``benchmark/item_id``."""

    benchmark: str
    item_id: str
    model: str
    model_sha256: str
    prompt_hash: str
    verdict: bool | None  # None: unparsable
    score: float | None  # P(Yes) / (P(Yes) + P(No))
    boxes: tuple[Box, ...] = ()
    mask: Mask | None = None  # of a model that answers with a heat map instead of boxes
    explanation: str = ""
    status: dict[str, str] = Field(default_factory=dict)  # task -> status, see evaluation.parsing


class Interval(Record):
    """A score with its 95 % bootstrap interval; ``n`` is the number of resampled units."""

    value: float
    low: float
    high: float
    n: int


class EvaluationReport(Record):
    """Scores of models and trivial baselines on one benchmark; every figure with its interval."""

    benchmark: str  # name of the BenchmarkSet
    benchmark_sha256: str
    prompt_hash: str
    n: int
    n_faulty: int
    scores: dict[str, dict[str, Interval]]  # model or baseline -> metric -> interval
    differences: dict[str, dict[str, Interval]] = Field(default_factory=dict)  # "tuned - base" -> metric -> paired
    # "model/fault" and "model/generator:NAME" -> metric -> interval
    breakdown: dict[str, dict[str, Interval]] = Field(default_factory=dict)
    statuses: dict[str, dict[str, int]] = Field(default_factory=dict)  # model -> "task:status" -> count
    models: dict[str, str] = Field(default_factory=dict)  # model -> weights sha256
    further: tuple[EvaluationReport, ...] = ()  # of the primary benchmark's report: those of the other benchmarks
    summary: dict[str, float | int | str] = Field(default_factory=dict)


class DatasetRef(Record):
    """Reference to Parquet shards: what travels between steps instead of data."""

    kind: str
    uri: str = Field(repr=False)
    digest: str
    rows: int
    shards: int = 1
    schema_version: int = SCHEMA_VERSION
    summary: dict[str, float | int | str] = Field(default_factory=dict)


class CheckpointRef(Record):
    """Reference to a model folder in its standard on-disk format."""

    name: str
    uri: str = Field(repr=False)
    sha256: str
    base_sha256: str = ""
    summary: dict[str, float | int | str] = Field(default_factory=dict)


def stable_hash(*values: str | bytes | int | float | None, length: int = 32) -> str:
    """Hex sha256 of the values with an unambiguous separator, cut to ``length`` characters."""
    digest = hashlib.sha256()
    for value in values:
        raw = (
            value
            if isinstance(value, bytes)
            else repr(value).encode()
            if not isinstance(value, str)
            else value.encode()
        )
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()[:length]
