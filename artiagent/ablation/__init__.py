"""Ablations: rows of changed settings on one configuration, and what each of them changes."""
