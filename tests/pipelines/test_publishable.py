"""Restricted material stops a run before it begins, unless that is acknowledged."""

RESTRICTED = ("--set", "inputs.sets.0.licence=CC BY-NC 4.0")


def test_asked_about_before_any_work(project, capsys):
    assert project.run(*RESTRICTED).code == 2
    assert "input set 's': CC BY-NC 4.0" in capsys.readouterr().err
    nowhere = ("--set", "inputs.sets.0.images=/nowhere")  # the next thing that is looked at
    assert project.run(*RESTRICTED, *nowhere, "--acknowledge-noncommercial").code == 2
    assert "/nowhere" in capsys.readouterr().err
    assert project.stages.calls == []
