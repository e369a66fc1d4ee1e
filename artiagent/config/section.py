"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from artiagent.records import stable_hash


class Section(BaseModel):
    """Base of all sections: immutable, unknown keys refused. Errors do not repeat values: one may be a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    def digest(self) -> str:
        """Hash of the section's values; part of cache keys and of every record of provenance.

        Fields made by `transport` stay out: how often a call is repeated does not change what is answered.
        """
        return stable_hash(self.model_dump_json(exclude=self._transport()))

    def _transport(self) -> dict[str, Any]:
        """Names of the fields that stay out, nested as pydantic's ``exclude`` takes them."""
        excluded: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if _outside(field):
                excluded[name] = True
            elif isinstance(value, Section) and (inner := value._transport()):
                excluded[name] = inner
        return excluded


def transport(default: Any = ..., **limits: Any) -> Any:
    """A field that says how a result is obtained and never what it is; it does not enter `Section.digest`."""
    given = {} if default is ... else {"default": default}
    return Field(**given, json_schema_extra={"transport": True}, **limits)


def _outside(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("transport"))
