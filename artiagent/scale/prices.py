"""What machines, storage and calls cost: one file that is to be checked before anybody relies on it.

Knows names of GPU models and units of money. Does not know how much of anything is used.
"""

from __future__ import annotations

import datetime
from pathlib import Path

import yaml
from pydantic import Field

from artiagent.config import Section, VlmSection
from artiagent.run_config import ConfigError, validated

FILE = Path(__file__).resolve().parents[2] / "infra" / "prices.yaml"
CHECK = "check before you rely on it"


class GpuPrice(Section):
    """Per hour of one GPU with its share of the machine around it."""

    on_demand: float = Field(gt=0)
    spot: float = Field(gt=0)


class ApiPrice(Section):
    """Per million tokens."""

    tokens_in: float = Field(ge=0)
    tokens_out: float = Field(ge=0)


class Prices(Section):
    """The whole file."""

    as_of: datetime.date
    note: str
    currency: str = "USD"
    gpu_hour: dict[str, GpuPrice]
    cpu_hour: float = Field(ge=0)  # of one virtual core with its share of memory
    storage_gb_month: float = Field(ge=0)  # of 10^9 bytes
    api: dict[str, ApiPrice] = Field(default_factory=dict)  # model -> price, where the configuration has none
    origin: str = ""  # file

    def gpu(self, model: str, spot: bool) -> float:
        """Per GPU-hour. Raises ConfigError saying what to add."""
        if (price := self.gpu_hour.get(model)) is None:
            known = ", ".join(sorted(self.gpu_hour))
            raise ConfigError(
                f"{self.origin}: gpu_hour has no {model} (has {known}); add '{model}: {{on_demand: ..., spot: ...}}'"
            )
        return price.spot if spot else price.on_demand

    def calls(self, section: VlmSection) -> ApiPrice | None:
        """Of a served model: the configuration's prices, else the file's, else None."""
        if section.price_in or section.price_out:
            return ApiPrice(tokens_in=section.price_in, tokens_out=section.price_out)
        return self.api.get(section.model or "")


def load_prices(path: Path = FILE) -> Prices:
    """Read a price file. Raises ConfigError naming file and key."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file of prices; see {FILE.name} below infra/ for the format")
    return validated(Prices, {**(yaml.safe_load(path.read_text()) or {}), "origin": str(path)}, str(path))
