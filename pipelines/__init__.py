"""Chains of steps, and the commands that need ZenML or MLflow."""
