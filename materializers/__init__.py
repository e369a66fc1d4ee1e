"""How references are stored in ZenML: one JSON file each, hashed by content, shown as HTML. Import registers them."""

from materializers.references import CheckpointMaterializer, DatasetMaterializer, EvaluationMaterializer

__all__ = ["CheckpointMaterializer", "DatasetMaterializer", "EvaluationMaterializer"]
