"""Benchmarks, predictions and scores with intervals."""
