"""The ZenML flavor: what can be set, for the host and for a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator
from zenml.config.base_settings import BaseSettings
from zenml.step_operators import BaseStepOperatorConfig, BaseStepOperatorFlavor

from pipelines.pinned.leases import device_names

if TYPE_CHECKING:
    from pipelines.pinned.operator import PinnedOperator

FLAVOR = "pinned"
SETTINGS = f"step_operator.{FLAVOR}"
SOURCE = f"{__name__}.PinnedFlavor"


class PinnedSettings(BaseSettings):
    """Of a step."""

    devices: int = Field(default=0, ge=0)  # how many, all at once; 0: the step sees none
    hours: float = Field(default=24, gt=0)  # deadline, for waiting and again for working


class PinnedConfig(BaseStepOperatorConfig):
    """Of a host."""

    names: str = ""  # of its devices, as CUDA_VISIBLE_DEVICES takes them, separated by commas
    cpu_steps: int = Field(default=2, ge=1)  # side by side, of those that need no device
    preload: str = ""  # modules, separated by commas, imported once for all processes; must not touch a GPU

    @field_validator("names")
    @classmethod
    def _named(cls, value: str) -> str:
        return ",".join(device_names(value))

    @property
    def is_local(self) -> bool:
        return True


class PinnedFlavor(BaseStepOperatorFlavor):
    """Registered by its source path, `SOURCE`."""

    @property
    def name(self) -> str:
        return FLAVOR

    @property
    def config_class(self) -> type[PinnedConfig]:
        return PinnedConfig

    @property
    def implementation_class(self) -> type[PinnedOperator]:
        from pipelines.pinned.operator import PinnedOperator

        return PinnedOperator
