import argparse

import pytest

from artiagent.mitigation.search.cli import add_commands, configured


def parsed(*words: str) -> argparse.Namespace:
    top = argparse.ArgumentParser()

    def add(commands, name, text, command):
        made = commands.add_parser(name, help=text)
        made.set_defaults(command=command)
        return made

    def config_options(to) -> None:
        to.add_argument("--config", default="configs/nano.yaml")
        to.add_argument("--set", action="append", default=[])

    add_commands(top.add_subparsers(), add, config_options)
    return top.parse_args(["search", *words])


def test_options_go_over_the_configuration() -> None:
    given = ("--prompts", "p.txt", "--algorithms", "zero_order,random", "--generator", "g", "--set", "search.rounds=2")
    config = configured(parsed(*given))
    section = config.search
    assert (section.prompts, section.algorithms, section.rounds) == ("p.txt", ("zero_order", "random"), 2)
    assert config.inputs.sampler == "g"


def test_without_options_it_is_the_configuration() -> None:
    config = configured(parsed())
    assert config.search.algorithms == ("random", "zero_order", "particles")
    assert config.inputs.sampler.endswith("nano-schnell")


def test_unknown_algorithms_are_named(capsys) -> None:
    with pytest.raises(SystemExit):
        parsed("--algorithms", "random,luck")
    assert "luck: expected some of random, zero_order, particles" in capsys.readouterr().err
