"""Who answers the agents' calls."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from artiagent.config.section import Section, transport


class VlmSection(Section):
    """Who answers the agents' calls. Keys never stand here: ``api_key_env`` names an environment variable."""

    backend: Literal["local", "openai"] = "local"
    model: str | None = None  # local: folder or hub id, None: inputs.vlm; openai: the server's name of the model
    model_sha256: str | None = None  # of a local model; filled in when a run is submitted
    base_url: str = "http://127.0.0.1:8000/v1"  # of any OpenAI-compatible server
    api_key_env: str = transport("OPENAI_API_KEY")
    structured: Literal["json_schema", "json_object", "prompt"] = "json_schema"  # how a schema is asked for
    # Longest side that is sent; larger images are scaled down. A multiple of 28: Qwen2.5-VL need not scale once more.
    image_side: int = Field(default=756, ge=28)
    image_format: Literal["png", "jpeg"] = "png"
    max_tokens: int = Field(default=512, ge=1)
    coordinates: Literal["auto", "pixels", "per_mille"] = "auto"  # auto: local by the processor, else pixels as sent
    prompts: dict[str, int] = Field(default_factory=dict)  # prompt -> version; others: the newest
    concurrency: int = transport(16, ge=1)  # requests under way at a time
    requests_per_minute: float | None = transport(None, gt=0)
    tokens_per_minute: float | None = transport(None, gt=0)
    timeout: float = transport(60.0, gt=0)  # seconds, of one request
    attempts: int = transport(5, ge=1)  # of one call, the first included
    backoff: float = transport(0.5, gt=0)  # seconds before the second attempt; doubles, with jitter
    cache: bool = transport(True)  # answers on disk by content hash
    price_in: float = transport(0.0, ge=0)  # per million tokens, for the account
    price_out: float = transport(0.0, ge=0)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    threads: int = transport(2, ge=1)
    batch: int = transport(32, ge=1)

    @field_validator("base_url")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        if "@" in url or "?" in url or "#" in url:
            raise ValueError("no user, password or query belongs into an address; a key comes from api_key_env")
        return url
