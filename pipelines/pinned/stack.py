"""The stack of this host: registered, and asked before a run whether its devices suffice.

``infra/stacks/pinned.yaml`` is what ``zenml stack import`` takes once ZenML knows the flavor; `register` makes that
known first, and may be repeated with other devices.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from artiagent.config import Config
from pipelines.environment import know_step_operator
from pipelines.pinned.flavor import FLAVOR, SOURCE, PinnedConfig
from pipelines.pinned.leases import device_names, too_few

if TYPE_CHECKING:
    from zenml.stack import Stack

FILE = Path(__file__).resolve().parents[2] / "infra" / "stacks" / "pinned.yaml"


def register(names: str | None = None, stack: str = "", **settings: Any) -> str:
    """Register flavor, components and stack of the stack file, or update them; returns the stack's name.

    Args:
        names: devices, separated by commas; None: those of the file.
        stack: name of the stack and of its step operator, for a host that has several; "": that of the file.
        settings: further fields of `PinnedConfig`.

    Raises ValueError for names that are no device names.
    """
    from zenml.client import Client
    from zenml.enums import StackComponentType

    if names is not None:
        device_names(names)
    client = Client()
    tree = yaml.safe_load(FILE.read_text())
    know_step_operator(FLAVOR, SOURCE)
    components = {}
    for kind, (entry,) in tree["components"].items():
        configuration, name = dict(entry["configuration"]), entry["name"]
        if kind == StackComponentType.STEP_OPERATOR:
            given = {**settings, **({} if names is None else {"names": names})}
            configuration = PinnedConfig(**configuration | given).model_dump(mode="json", exclude_unset=True)
            name = stack or name
        components[StackComponentType(kind)] = _component(client, kind, name, entry["flavor"], configuration)
    name = stack or tree["stack_name"]
    if any(known.name == name for known in client.list_stacks(name=name)):
        client.update_stack(name, component_updates={kind: [id] for kind, id in components.items()})
    else:
        client.create_stack(name, components)
    return name


def _component(client: Any, kind: str, name: str, flavor: str, configuration: dict[str, Any]) -> Any:
    known = [entry for entry in client.list_stack_components(type=kind, name=name) if entry.name == name]
    if not known:
        return client.create_stack_component(name, flavor, kind, configuration).id
    if known[0].configuration != configuration:
        client.update_stack_component(known[0].id, kind, configuration=configuration)
    return known[0].id


def device_problems(config: Config, stack: Stack, stages: Collection[str]) -> list[str]:
    """Stages of a run that would wait for ever: they need more devices than the stack's host has.

    Args:
        config: whose profiles are meant.
        stack: that the run is submitted to; one without pinned devices has no such problems.
        stages: their names.
    """
    from pipelines.placement import devices, profile_of

    if stack.step_operator is None or stack.step_operator.flavor != FLAVOR:
        return []
    names = device_names(stack.step_operator.config.names)
    needs = {stage: devices(profile_of(stage, config)) for stage in stages}
    return [too_few(stage, count, names) for stage, count in needs.items() if count > len(names)]
