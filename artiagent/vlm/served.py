"""What a server says of a model that it serves: part of the model's identity where its weights cannot be read.

Knows ``GET <base_url>/models``. Does not know questions.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp

from artiagent.config import VlmSection
from artiagent.vlm.limits import backoff
from artiagent.vlm.protocol import VlmUnavailable
from artiagent.vlm.transport import Endpoint, Lost, Response, Unreachable

_ATTEMPTS = 3
_LASTING = ("id", "root", "parent", "owned_by")  # times and permissions differ from one answer to the next


def served_model(section: VlmSection, setting: str) -> dict[str, str]:
    """The lasting facts of the server's entry of ``section.model``; {} where it lists no models, or not this one.

    Raises VlmUnavailable naming address and setting where nobody answers or the key is not accepted, and ValueError for
    an unusable address.
    """
    endpoint = Endpoint(section.base_url, section.api_key_env, section.timeout, setting)
    where = f"{setting}.base_url {endpoint.base_url}"
    try:
        response = asyncio.run(_get(endpoint, section))
    except (Unreachable, Lost) as error:
        raise VlmUnavailable(
            f"{where}: cannot be reached ({error}; {_ATTEMPTS} attempts); start the server or correct the address. "
            "Finished work is kept; a rerun resumes"
        ) from None
    if response.status in (401, 403):
        raise VlmUnavailable(
            f"{where}: the key is not accepted (http {response.status}); set environment variable "
            f"{section.api_key_env} to a valid one"
        )
    if response.status != 200:
        return {}
    entries = [entry for entry in _entries(response.text) if entry.get("id") == section.model]
    return {name: str(entries[0][name]) for name in _LASTING if entries and entries[0].get(name)}


async def _get(endpoint: Endpoint, section: VlmSection) -> Response:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        for attempt in range(1, _ATTEMPTS):
            try:
                return await endpoint.get(session, "models")
            except (Unreachable, Lost):
                await asyncio.sleep(backoff(section.backoff, attempt))
        return await endpoint.get(session, "models")


def _entries(text: str) -> list[dict[str, Any]]:
    try:
        listed = json.loads(text)["data"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return []
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
