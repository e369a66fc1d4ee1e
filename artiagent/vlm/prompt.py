"""Prompts of the agents: files with versions under ``prompts/``, rendered by one function.

A file is named ``<name>.v<version>.md``. A new wording is a new file, so that records of the old one stay true; the
newest version is used unless another is asked for. The hash covers the file as it stands, fields unfilled: what was
asked is known from a record without its image. Questions of training and evaluation live in `instruction.prompts`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template, TemplateError
from pydantic import BaseModel

from artiagent.records import stable_hash

FOLDER = Path(__file__).with_name("prompts")
_NAME = re.compile(r"([a-z_]+)\.v(\d+)\.md")
_ENVIRONMENT = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)  # noqa: S701


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt. `schema` is the JSON schema of the answer, None for plain text."""

    name: str
    version: int
    hash: str
    text: str
    schema: Mapping[str, Any] | None = None

    @property
    def identity(self) -> str:
        """``name@version#hash``, as records keep it."""
        return f"{self.name}@{self.version}#{self.hash}"


def render(name: str, answer: type[BaseModel] | None = None, version: int | None = None, **fields: Any) -> Prompt:
    """Fill the prompt file ``name`` in its newest, or the asked, version.

    Args:
        name: prompt file without version.
        answer: model of the answer; its JSON schema goes with the prompt.
        version: an older version; None: the newest.
        fields: values of the template's fields; all of them, no others are used.

    Raises ValueError for an unknown prompt or version and for a missing field.
    """
    path, number = _file(name, version)
    try:
        source, template = _read(path)
        text = template.render(**fields).strip()
    except TemplateError as error:
        raise ValueError(f"prompt {path.name}: {error}; given: {', '.join(sorted(fields)) or 'nothing'}") from error
    schema = strict_schema(answer) if answer else None
    digest = stable_hash(source, json.dumps(schema, sort_keys=True), length=12)
    return Prompt(name, number, digest, text, schema)


def question(name: str, text: str) -> Prompt:
    """A prompt whose wording comes from `instruction.prompts`: version 0, hashed by its canonical wording."""
    from artiagent.instruction.prompts import prompt_hash

    return Prompt(name, 0, prompt_hash(name)[:12], text)


@cache
def versions(name: str) -> Mapping[int, Path]:
    """All versions of a prompt, by number."""
    found = ((_NAME.fullmatch(path.name), path) for path in sorted(FOLDER.glob(f"{name}.v*.md")))
    return {int(match[2]): path for match, path in found if match}


@cache
def strict_schema(answer: type[BaseModel]) -> Mapping[str, Any]:
    """JSON schema in the dialect that structured output of servers takes: references resolved, every key required, no
    others allowed. One object for all prompts of a model; nobody changes it."""
    schema = answer.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return resolved(definitions[node["$ref"].rsplit("/", 1)[-1]])
        node = {key: resolved(value) for key, value in node.items() if key not in ("title", "default", "description")}
        if isinstance(properties := node.get("properties"), dict):
            node |= {"required": list(properties), "additionalProperties": False}
        return node

    return resolved(schema)


def _file(name: str, version: int | None) -> tuple[Path, int]:
    known = versions(name)
    if not known:
        names = sorted({match[1] for path in FOLDER.glob("*.md") if (match := _NAME.fullmatch(path.name))})
        raise ValueError(f"unknown prompt {name!r}; expected one of {', '.join(names)}")
    number = max(known) if version is None else version
    if number not in known:
        raise ValueError(f"prompt {name!r} has versions {', '.join(map(str, known))}, not {number}")
    return known[number], number


@cache
def _read(path: Path) -> tuple[str, Template]:
    source = path.read_text(encoding="utf-8")
    return source, _ENVIRONMENT.from_string(source)
