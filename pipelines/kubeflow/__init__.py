"""The chain for Kubeflow Pipelines: `bundle` (code and configuration), `export` (IR YAML), `submit`; `cli` joins them.

Why not through ZenML's own orchestrator: docs/kubeflow.md.
"""
