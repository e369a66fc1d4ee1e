"""One module per step: a plain ``run(section, refs) -> refs`` and its ZenML step, named like the module."""
