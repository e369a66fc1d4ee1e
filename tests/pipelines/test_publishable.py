"""Restricted material stops a run before it begins, unless that is acknowledged."""

from artiagent import cli
from artiagent.store import home


def test_asked_about_before_any_work(inputs, capsys):
    known = list((home() / "runs").glob("*"))
    restricted = ["run", "--config", f"{inputs}/tiny.yaml", "--set", "inputs.sets.0.licence=CC BY-NC 4.0"]
    assert cli.main(restricted) == 2
    assert "input set 's': CC BY-NC 4.0" in capsys.readouterr().err
    nowhere = ["--set", "inputs.sets.0.images=/nowhere"]  # the next thing that is looked at
    assert cli.main([*restricted, *nowhere, "--acknowledge-noncommercial"]) == 2
    assert "/nowhere" in capsys.readouterr().err
    assert list((home() / "runs").glob("*")) == known
