"""Perception agent: source image -> entities, parts and masks (spec: perception agent, steps 1 to 4)."""
