"""Curation agent: pairs -> training-ready pairs (spec: perception and curation)."""
