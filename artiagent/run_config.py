"""Run configurations as files: read, override, validate; every problem is named with its key.

A YAML file under ``configs/`` is a ZenML run configuration; its ``parameters.config`` holds the tree of `Config`.
Knows no option: those stand in `config`.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from artiagent.config import Config, InputSet, Section
from artiagent.presets import fill_in

S = TypeVar("S", bound=Section)


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file and key and what was expected."""


def load_config(path: Path | str, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read ``parameters.config`` of a ZenML run configuration and apply ``section.key=value`` overrides.

    Raises ConfigError naming the file and the key; an unknown key names the nearest known one.
    """
    tree = read_parameters(path)["config"]
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree, origin=str(path))


def read_parameters(path: Path | str) -> dict[str, Any]:
    """``parameters`` of a ZenML run configuration as they stand there; ``config`` among them is a mapping."""
    path = Path(path)
    if not path.is_file():
        near = ", ".join(sorted(str(p) for p in path.parent.glob("*.yaml"))) or "none here"
        raise ConfigError(f"{path}: no such configuration file (found: {near})")
    try:
        document = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    # Through JSON: a YAML alias would be one object in two places, and an override of one would change the other.
    document = json.loads(json.dumps(document, default=str))
    parameters = (document.get("parameters") or {}) if isinstance(document, dict) else {}
    if not isinstance(tree := parameters.get("config"), dict):
        raise ConfigError(f"{path}: expected a mapping under 'parameters: config:', got {type(tree).__name__}")
    return parameters


def effective_config(
    path: Path | str, overrides: list[str] | tuple[str, ...], images: str | None, annotations: str | None
) -> Config:
    """``load_config``, its input sets replaced by the person's own images where they are given.

    Raises ConfigError for annotations without images.
    """
    config = load_config(path, overrides)
    if images is None:
        if annotations is not None:
            raise ConfigError("--annotations without --images: give the images that the annotations belong to")
        return config
    places = [str(Path(p).expanduser().resolve()) if p else None for p in (images, annotations)]
    own = InputSet(name="images", images=str(places[0]), annotations=places[1])
    return config.model_copy(update={"inputs": config.inputs.model_copy(update={"sets": (own,)})})


def parse_config(tree: dict[str, Any], origin: str = "configuration") -> Config:
    """Validate a plain tree. Raises ConfigError with every problem on a line of its own."""
    return validated(Config, fill_in(tree), origin)


def validated(model: type[S], tree: Any, origin: str) -> S:
    """``parse_config`` for any section."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{origin}: {_explain(model, e)}" for e in error.errors())) from error


def vary(
    tree: dict[str, Any], changes: Mapping[str, Any], origin: str, shared: Config, allowed: Collection[str]
) -> Config:
    """The configuration of a row: dotted keys set on top of a tree that others share.

    Args:
        tree: the configuration as written, without defaults; it is not changed.
        changes: dotted key -> value.
        origin: file and row, for errors.
        shared: the configuration without the changes.
        allowed: sections in which the row may differ from it.

    Raises ConfigError naming the key that is unknown, invalid, or shared by all rows.
    """
    tree = copy.deepcopy(tree)
    for key, value in changes.items():
        try:
            set_key(tree, key, value)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {key}: {error}") from error
    config = parse_config(tree, origin)
    for name in Config.model_fields:
        if name not in allowed and getattr(config, name) != getattr(shared, name):
            raise ConfigError(f"{origin}: sets {name!r}, which all rows share (a row may set {', '.join(allowed)})")
    return config


def read_varied(path: Path | str, name: str, holds: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """``parameters.config`` and the mapping ``parameters.<name>`` beside it, overrides of both applied.

    Args:
        path: YAML file.
        name: of the second mapping; overrides that begin with it are its own.
        holds: what it holds, for the error.
        overrides: ``section.key=value``.
    """
    parameters = read_parameters(path)
    tree, rest = parameters["config"], {name: parameters.get(name)}
    if not isinstance(rest[name], dict):
        raise ConfigError(f"{path}: expected a mapping under 'parameters: {name}:' with its {holds}")
    for override in overrides:
        apply_override(rest if override.startswith(f"{name}.") else tree, override)
    return tree, rest[name]


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Apply ``section.key=value``, the value in YAML, to a plain tree."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: expected section.key=value, e.g. synthesis.steps=8")
    try:
        set_key(tree, key.strip(), yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: value is not valid YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"--set {override!r}: {error}") from error


def set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    """Put a value under a dotted key; a number names an item of a list: ``inputs.sets.0.limit``."""
    *parents, leaf = key.split(".")
    node: Any = tree
    for name in parents:
        node = _inside(node, name)
    if not isinstance(node, dict):
        raise ConfigError(f"{leaf!r} is an item of a list; give one of its keys, or the whole list")
    node[leaf] = value


def _inside(node: Any, name: str) -> Any:
    inner = None
    if isinstance(node, dict):
        inner = node.setdefault(name, {})
    elif name.isdecimal() and int(name) < len(node):
        inner = node[int(name)]
    if not isinstance(inner, dict | list):
        raise ConfigError(f"{name!r} is a value, not a section")
    return inner


def _explain(model: type[Section], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "value_error":  # of a validator of ours: it says what is wrong, and may be about a secret
        return f"{key}: {error['msg']}"
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']} (got {error['input']!r})"
    known = _known_keys(model, tuple(str(part) for part in error["loc"][:-1]))
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.0)
    hint = f"did you mean {near[0]!r}?" if near else "remove it"
    return f"unknown key {key!r}; {hint} (known here: {', '.join(sorted(known))})"


def _known_keys(model: Any, parents: tuple[str, ...]) -> list[str]:
    names = iter(parents)
    for name in names:
        annotation = model.model_fields[name].annotation
        model = _section_type(annotation)
        if get_origin(annotation) in (tuple, list, dict):
            next(names, None)  # of an item
    return list(model.model_fields)


def _section_type(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _section_type(arg))), None)
