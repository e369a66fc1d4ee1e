"""Synthesis agent: plans patch mappings and injects them by inversion-injection (paper, section 3.2)."""
