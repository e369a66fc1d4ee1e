"""The embedded default world: rendered scenes with exact masks, drawn faults, and recipes that train models on them."""
