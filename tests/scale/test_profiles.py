"""Profiles and pools: what is declared, what does not fit, and how that is said."""

import re

import pytest
import yaml

from artiagent.config import Config
from artiagent.run_config import ConfigError, load_config
from artiagent.scale.profiles import (
    FILE,
    Declared,
    Pool,
    Profile,
    Taint,
    Toleration,
    load_profiles,
    name_problems,
    need_problems,
    profile_name,
)
from pipelines.stages import stages

PAPER = load_config("configs/paper.yaml")
STAGES = [stage.name for stage in stages(PAPER)]
GPU = {"gpu": "H100", "gpus": 1, "tolerations": [{"key": "nvidia.com/gpu"}]}
TAINTS = [{"key": "nvidia.com/gpu", "value": "present"}]


def profile(**changes):
    return Profile.model_validate({"name": "p", "cpu": 4, "memory": 16, **changes})


def pool(name="q", **changes):
    return Pool.model_validate({"name": name, "cpu": 8, "memory": 32, "disk": 100, "most": 2, **changes})


def varied(change):
    """The declarations of the repository with one thing changed, as a tree."""
    tree = yaml.safe_load(FILE.read_text())
    change(tree)
    return tree


@pytest.fixture
def loaded(tmp_path):
    def load(tree):
        place = tmp_path / "profiles.yaml"
        place.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
        return load_profiles(place)

    return load


def test_every_declared_profile_has_a_pool():
    declared = load_profiles()
    for each in declared.profiles.values():
        assert declared.pools_for(each), declared.why_none(each)


def test_every_configuration_names_profiles_that_suit_it():
    declared = load_profiles()
    for place in sorted(FILE.parents[1].glob("configs/*.yaml")):
        if "config" in (yaml.safe_load(place.read_text()).get("parameters") or {}):
            config = load_config(place)
            assert name_problems(config.scale, declared, STAGES) == [], place
    assert need_problems(PAPER, declared, STAGES) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["profiles"]["cpu"].update(memroy=3), r"profiles\.yaml.*'profiles\.cpu\.memroy'.*'memory'"),
        (lambda t: t["profiles"]["cpu"].update(cpu=-1), r"profiles\.cpu\.cpu: .*greater than 0 \(got -1\)"),
        (lambda t: t["profiles"]["cpu"].update(disk=0), r"profiles\.cpu\.disk: .*greater than 0"),
        (lambda t: t["profiles"]["cpu"].update(shm=64), "shm 64 counts as memory"),
        (lambda t: t["profiles"]["gpu-1x80gb"].update(tolerations=[]), r"gpu-1x80gb: .*no toleration of the taint"),
        (lambda t: t["profiles"]["gpu-1x80gb"].update(gpus=0), "name the model and the number, or neither"),
        (lambda t: t["profiles"]["cpu"].update(tolerations=[{"key": "nvidia.com/gpu"}]), "no GPU, but a toleration"),
        (lambda t: t["profiles"]["cpu"].update(selector={"artiagent.io/pool": True}), "valid string"),
        (lambda t: t["profiles"]["cpu"].update(selector={"artiagent io/pool": "cpu"}), "should match pattern"),
        (lambda t: t["profiles"]["cpu"].update(queue="Not A Label"), "should match pattern"),
        (lambda t: t["profiles"]["cpu"].update(name="cpu"), "the name is the key already"),
        (lambda t: t["profiles"].update(Cpu=dict(t["profiles"]["cpu"])), "should match pattern"),
        (lambda t: t["pools"]["cpu"].update(most=0), r"pools\.cpu\.most: .*greater than or equal to 1"),
        (lambda t: t["pools"]["gpu-8x80gb"].update(taints=[]), "no taint nvidia.com/gpu: any pod could occupy"),
        (lambda t: t.update(pool={}), "unknown key 'pool'; did you mean 'pools'"),
        (lambda t: t.pop("profiles"), "profiles: Field required"),
    ],
)
def test_what_is_wrong_is_named(loaded, change, message):
    with pytest.raises(ConfigError, match=message):
        loaded(varied(change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("profiles: {a: {cpu: 1, memory: 2}, a: {cpu: 2, memory: 4}}", "key 'a' occurs twice"),
        ("profiles: {a: {cpu: 1, cpu: 2, memory: 4}}", "key 'cpu' occurs twice"),
        ("profiles: [", "not valid YAML"),
        ("- a", "expected a mapping"),
        ("profiles: []", "profiles: Input should be a valid dictionary"),
    ],
)
def test_files_that_cannot_be_read_are_said_to_be_so(loaded, text, message):
    with pytest.raises(ConfigError, match=message):
        loaded(text)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml: no such file"):
        load_profiles(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("needs", "has", "reason"),
    [
        ({}, {}, None),
        ({"selector": {"a": "x"}}, {"labels": {"a": "x", "b": "y"}}, None),
        ({"selector": {"a": "x"}}, {"labels": {"a": "z"}}, "its label a is 'z', not 'x'"),
        ({"selector": {"a": "x"}}, {"labels": {"b": "x"}}, "it has no label a"),
        ({}, {"taints": [{"key": "t"}]}, "its taint t:NoSchedule is not tolerated"),
        ({}, {"taints": [{"key": "t", "effect": "PreferNoSchedule"}]}, None),
        ({"tolerations": [{"key": "t", "effect": "NoExecute"}]}, {"taints": [{"key": "t"}]}, "its taint t:NoSchedule"),
        ({"tolerations": [{"key": "t", "operator": "Equal", "value": "a"}]}, {"taints": [{"key": "t", "value": "b"}]},
         "its taint t=b:NoSchedule"),
        ({"tolerations": [{"key": "t"}]}, {"taints": [{"key": "t", "value": "b"}]}, None),
        ({}, {"spot": True}, "may be taken away"),
        ({"spot": True}, {"spot": True}, None),
        ({"spot": True}, {}, None),
        ({"cpu": 8.5}, {}, "a node has 8 cores, not 8.5"),
        ({"memory": 33}, {}, "a node has 32 GiB of memory, not 33"),
        ({"disk": 200}, {}, "a node has 100 GiB of disk, not 200"),
        ({"cpu": 8, "memory": 32, "disk": 100}, {}, None),
        (GPU, {}, "a node has 0 GPUs, not 1"),
        (GPU, {"gpu": "A100", "gpus": 8, "taints": TAINTS}, "its GPU is A100, not H100"),
        (GPU, {"gpu": "H100", "gpus": 8, "taints": TAINTS}, None),
        (GPU | {"gpus": 4}, {"gpu": "H100", "gpus": 1, "taints": TAINTS}, "a node has 1 GPUs, not 4"),
        ({}, {"gpu": "H100", "gpus": 8, "taints": TAINTS}, "its taint nvidia.com/gpu=present:NoSchedule"),
    ],
)  # fmt: skip
def test_a_pool_says_why_it_does_not_fit(needs, has, reason):
    misfits = pool(**has).misfits(profile(**needs))
    assert misfits == () if reason is None else len(misfits) == 1 and reason in misfits[0]


def test_the_nearest_pool_is_named_in_one_line():
    wanted = profile(cpu=10, memory=64)
    far, near = pool("far", taints=[{"key": "t"}]), pool("near", memory=128)
    declared = Declared(profiles={"p": wanted}, pools={"far": far, "near": near})
    assert declared.pools_for(wanted) == ()
    assert declared.why_none(wanted) == (
        "profile 'p': no node pool of infra/profiles.yaml can run it; nearest is 'near': a node has 8 cores, not 10"
    )
    assert "declare the cluster's pools" in Declared(profiles={}).why_none(wanted)
    assert declared.why_none(profile()) == ""


def test_a_toleration_that_exists_has_no_value():
    with pytest.raises(ValueError, match="operator Exists takes no value"):
        Toleration(key="t", value="x")
    assert str(Taint(key="t", value="x", effect="NoExecute")) == "t=x:NoExecute"


def scaled(config=PAPER, **profiles):
    scale = config.scale.model_copy(update={"profiles": {**config.scale.profiles, **profiles}})
    return config.model_copy(update={"scale": scale})


def test_stages_without_a_name_have_the_default():
    assert profile_name("score", PAPER.scale) == "cpu"
    assert profile_name("score", Config().scale) == "cpu"
    assert profile_name("score", scaled(default="cpu-large").scale) == "cpu-large"


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"synthesise": "cpu"}, r"scale\.profiles\.synthesise: no such stage; did you mean 'synthesize'"),
        ({"finetune": "gpu-8x80g"}, r"scale\.profiles\.finetune: profile 'gpu-8x80g'.*did you mean 'gpu-8x80gb'"),
        ({"default": "cqu"}, r"scale\.profiles\.default: profile 'cqu'.*did you mean 'cpu'"),
    ],
)
def test_names_with_a_typo_are_told(profiles, message):
    (problem,) = name_problems(scaled(**profiles).scale, load_profiles(), STAGES)
    assert re.search(message, problem)


def with_values(**values):
    config = PAPER
    for key, value in values.items():
        section, name = key.split("__")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: value})})
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (scaled(synthesize="cpu"), r"synthesize: synthesis\.device is 'cuda', but profile 'cpu' has no GPU; set scale"),
        (scaled(plan="gpu-1x80gb"), r"plan computes on no GPU, but profile 'gpu-1x80gb' has 1"),
        (scaled(perceive="cpu"), r"perceive: perception\.detection\.device is 'cuda'"),
        (
            with_values(reward__device="cpu"),
            r"train_reward: profile 'gpu-1x80gb' has 1 GPUs, but reward\.device",
        ),
        (with_values(sft__processes=4), r"sft\.processes is 4, but its profile has 8 GPUs; set sft\.processes=8"),
        (scaled(finetune="gpu-1x80gb"), r"sft\.processes is 8, but its profile has 1 GPUs"),
    ],
)
def test_stages_and_profiles_that_do_not_go_together(config, message):
    problems = need_problems(config, load_profiles(), STAGES)
    assert [p for p in problems if re.search(message, p)], problems
    assert len(problems) == 1


def test_device_auto_suits_both():
    assert need_problems(with_values(reward__device="auto"), load_profiles(), STAGES) == []
    assert need_problems(scaled(with_values(reward__device="auto"), train_reward="cpu"), load_profiles(), STAGES) == []


def test_a_profile_without_a_pool_is_told_once():
    declared = load_profiles()
    small = declared.pools["gpu-1x80gb"].model_copy(update={"memory": 100.0})
    declared = declared.model_copy(update={"pools": {**declared.pools, "gpu-1x80gb": small}})
    (problem,) = need_problems(PAPER, declared, STAGES)
    assert "nearest is 'gpu-1x80gb': a node has 100 GiB of memory, not 200 (asked for by perceive)" in problem
