"""``python -m pipelines.pinned``: register the stack of this host, and see who has which device."""

from __future__ import annotations

import argparse
import sys

from pipelines.environment import prepare
from pipelines.pinned.leases import device_names, holders


def register(arguments: argparse.Namespace) -> int:
    """Register or update the stack."""
    prepare()
    from pipelines.pinned.stack import register as register_stack

    settings = {"cpu_steps": arguments.cpu_steps, "preload": arguments.preload}
    given = {key: value for key, value in settings.items() if value is not None}
    name = register_stack(arguments.devices, arguments.stack, **given)
    print(f"stack {name}: registered; use it with: artiagent run --config ... --stack {name}")
    return 0


def devices(arguments: argparse.Namespace) -> int:
    """One line per device and what has it."""
    for device, holder in holders(device_names(arguments.devices)).items():
        print(f"{device:<12} {holder or 'free'}")
    return 0


def main() -> int:
    """0, or 2 with a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.pinned", description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("register", help="register or update the stack")
    one.add_argument("--devices", help="names, separated by commas, as CUDA_VISIBLE_DEVICES takes them; '' for none")
    one.add_argument("--stack", default="", help="its name (default: artiagent-pinned)")
    one.add_argument("--cpu-steps", type=int, help="steps without a device that run side by side (default 2)")
    one.add_argument("--preload", help="modules that are imported once for all steps, separated by commas")
    one.set_defaults(run=register)
    two = commands.add_parser("devices", help="who has which device now")
    two.add_argument("devices", help="names, separated by commas")
    two.set_defaults(run=devices)
    arguments = parser.parse_args()
    try:
        return arguments.run(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
