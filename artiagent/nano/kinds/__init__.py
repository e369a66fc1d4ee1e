"""The kinds of entity: each a function from a random stream and a coat to pieces, rearmost first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from artiagent.nano.kinds.animals import cat, dog, elephant, horse
from artiagent.nano.kinds.birds import bird
from artiagent.nano.kinds.figure import Coat, Figure, Piece
from artiagent.nano.kinds.people import person
from artiagent.nano.kinds.things import car, chair, teapot

BUILDERS: dict[str, Callable[[np.random.Generator, Coat], list[Piece]]] = {
    "dog": dog,
    "cat": cat,
    "horse": horse,
    "elephant": elephant,
    "bird": bird,
    "person": person,
    "car": car,
    "teapot": teapot,
    "chair": chair,
}


def build_figure(kind: str, rng: np.random.Generator, coat: Coat, colour: str) -> Figure:
    """Draw the anatomy of one entity in local coordinates; `colour` is the word for the coat's main colour."""
    if kind not in BUILDERS:
        raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(BUILDERS)}")
    return Figure(kind, colour, coat.texture, tuple(BUILDERS[kind](rng, coat)))


def part_layers() -> dict[str, str]:
    """Every part name of the nano world and its layer. Raises ValueError where two kinds disagree."""
    coat = Coat((128.0,) * 3, (90.0,) * 3, "plain", (60.0,) * 3, (200.0,) * 3, (50.0,) * 3)
    layers: dict[str, str] = {}
    for kind, builder in BUILDERS.items():
        for piece in builder(np.random.default_rng(0), coat):
            if piece.name and layers.setdefault(piece.name, piece.layer) != piece.layer:
                raise ValueError(
                    f"{piece.name!r} of {kind} is {piece.layer}, elsewhere {layers[piece.name]}: choose one"
                )
    return layers
