"""Options of the commands ``artiagent kubeflow export`` and ``submit``; imports nothing that the help need not."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """examples:
  export ARTIAGENT_STORE=s3://bucket/artiagent MLFLOW_TRACKING_URI=https://mlflow.example.org
  artiagent kubeflow export --config configs/paper.yaml --registry registry.example.org/team --out paper-pipeline.yaml
  artiagent kubeflow submit --host https://kubeflow.example.org/pipeline --pipeline paper-pipeline.yaml

Variables that are handed to the tasks and the images' names: docs/kubeflow.md. Secrets stay in the cluster: the tasks
name a Kubernetes secret and its keys.
"""


def export_options(parser: argparse.ArgumentParser) -> None:
    """Besides --config and --set."""
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("pipeline.yaml"), help="file (default %(default)s)")
    parser.add_argument(
        "--registry", default="", metavar="HOST/PATH", help="of the images artiagent/cpu and artiagent/cuda"
    )
    parser.add_argument("--image", default="", metavar="URI", help="for all tasks, instead of those two")
    parser.add_argument(
        "--secret", default="artiagent", help="Kubernetes secret with credentials (default %(default)s)"
    )


def submit_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--host", required=True, metavar="URL", help="address of Kubeflow Pipelines")
    parser.add_argument("--pipeline", type=Path, required=True, metavar="FILE", help="what `export` wrote")
    parser.add_argument("--namespace", metavar="NAME", help="Kubernetes namespace, on clusters with several users")
    parser.add_argument("--experiment", default="artiagent", help="default %(default)s")
    parser.add_argument("--service-account", metavar="NAME", help="of the tasks' pods")
