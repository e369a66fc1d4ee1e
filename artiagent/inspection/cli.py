"""``artiagent inspect``: what a promoted model says about a person's own images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from artiagent.orchestration import open_model


def add_commands(
    commands: argparse._SubParsersAction, add: Callable[..., argparse.ArgumentParser], config_options: Callable
) -> None:
    look = add(commands, "inspect", "verdict, boxes and explanation for one image", inspect)
    look.add_argument("image", type=Path)
    config_options(look)
    look.add_argument("--model", help="model folder or models:/ uri; default: the profile's champion")
    look.add_argument("--out", type=Path, help="annotated copy; default: <image>-inspected.png here")
    look.add_argument("--json", action="store_true", help="print the result as JSON")


def inspect(arguments: argparse.Namespace) -> int:
    """Ask a model about one image and draw what it found."""
    from artiagent.inspection.inspect import inspect_image
    from artiagent.run_config import load_config

    config = load_config(arguments.config, arguments.set)
    model = open_model(arguments.model or f"models:/{config.registry.vlm_name}@champion")
    found = inspect_image(arguments.image, model, config.evaluation, arguments.out)
    if arguments.json:
        print(json.dumps({**found, "model": model.name}, indent=1))
        return 0
    print(f"{found['verdict']}  (P(artifacts) = {found['score']:.2f}, model {model.name})")
    for box in found["boxes"]:
        print(f"box {box}")
    print(f"{found['explanation'] or '(no explanation)'}\nannotated copy: {found['annotated']}")
    return 0
