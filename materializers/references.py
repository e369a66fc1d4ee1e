"""Materializers of DatasetRef, CheckpointRef and EvaluationReport.

A reference is stored, never what it points to. The content hash is the digest of what it points to, so a stage that
runs again and makes the same data leaves everything behind it cached; costs and provenance in ``summary`` stay out.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer

from artiagent.records import CheckpointRef, DatasetRef, EvaluationReport, Interval, Record, stable_hash

T = TypeVar("T", bound=Record)
FILE = "reference.json"
PAGE = "reference.html"
# Kind of a data set -> the page that lies beside it.
REPORTS = {
    "curated": "report.html", "search": "search.html", "corrected": "correction.html", "audit": "audit.html"
}  # fmt: skip


class _ReferenceMaterializer(BaseMaterializer):
    SKIP_REGISTRATION: ClassVar[bool] = True

    def load(self, data_type: type[T]) -> T:
        with self.artifact_store.open(self._path(FILE), "r") as file:
            return data_type.model_validate_json(file.read())

    def save(self, data: Record) -> None:
        with self.artifact_store.open(self._path(FILE), "w") as file:
            file.write(data.model_dump_json(indent=1))

    def save_visualizations(self, data: Record) -> dict[str, VisualizationType]:
        with self.artifact_store.open(self._path(PAGE), "w") as file:
            file.write(render(data))
        return {self._path(PAGE): VisualizationType.HTML}

    def extract_metadata(self, data: Any) -> dict[str, Any]:
        fields = data.model_dump(exclude={"summary", "uri"})
        flat = {k: v for k, v in fields.items() if isinstance(v, (str, int, float))}
        return {key.replace(":", "."): value for key, value in {**flat, **data.summary}.items()}  # ZenML refuses colons

    def _path(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"


class DatasetMaterializer(_ReferenceMaterializer):
    """Stores a DatasetRef."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (DatasetRef,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save_visualizations(self, data: DatasetRef) -> dict[str, VisualizationType]:
        """The reference, and the page that lies beside the data."""
        shown = super().save_visualizations(data)
        name = REPORTS.get(data.kind, "")
        if name and (Path(data.uri) / name).is_file():
            with self.artifact_store.open(self._path(name), "w") as file:
                file.write((Path(data.uri) / name).read_text(encoding="utf-8"))
            shown[self._path(name)] = VisualizationType.HTML
        return shown

    def compute_content_hash(self, data: DatasetRef) -> str:
        return stable_hash(data.kind, data.digest)


class CheckpointMaterializer(_ReferenceMaterializer):
    """Stores a CheckpointRef."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (CheckpointRef,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    def compute_content_hash(self, data: CheckpointRef) -> str:
        return stable_hash(data.name, data.sha256)


class EvaluationMaterializer(_ReferenceMaterializer):
    """Stores an EvaluationReport, whole: it is small."""

    ASSOCIATED_TYPES: ClassVar[tuple[type[Any], ...]] = (EvaluationReport,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS

    def compute_content_hash(self, data: EvaluationReport) -> str:
        return stable_hash(data.model_dump_json(exclude={"summary"}))


def render(data: Record) -> str:
    """A reference as a small HTML page: its fields, then its summary."""
    fields = data.model_dump(mode="json")
    summary = fields.pop("summary", {})
    scores = data.scores if isinstance(data, EvaluationReport) else {}
    for name in ("scores", "differences", "breakdown"):
        fields.pop(name, None)
    tables = [_table(type(data).__name__, fields), _table("summary", summary)]
    tables += [_table(model, {metric: _interval(i) for metric, i in row.items()}) for model, row in scores.items()]
    return f"<html><body style='font-family: sans-serif'>{''.join(tables)}</body></html>"


def _interval(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}] n={interval.n}"


def _table(title: str, values: dict[str, Any]) -> str:
    rows = "".join(f"<tr><th align='left'>{escape(k)}</th><td>{escape(_text(v))}</td></tr>" for k, v in values.items())
    return f"<h3>{escape(title)}</h3><table>{rows}</table>" if rows else ""


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list)) else str(value)
