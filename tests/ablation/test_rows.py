import pytest
import yaml

from artiagent.ablation.rows import load_ablation
from artiagent.config import Config
from artiagent.run_config import ConfigError
from artiagent.store import checkout

DEFAULT = checkout() / "configs" / "ablation.yaml"


@pytest.fixture
def path(tmp_path):
    rows = [
        {"name": "default", "group": "a", "detect": True},
        {"name": "few", "group": "a", "set": {"synthesis.steps": 6, "planning.strips": 3}},
        {"name": "paper", "group": "b", "set": {"preset": "paper"}},
    ]
    config = {"synthesis": {"steps": 12}, "inputs": {"sets": [{"name": "s", "images": "i"}]}}
    return write(tmp_path, {"config": config, "ablation": {"reference": "default", "rows": rows}})


def write(folder, parameters):
    (folder / "a.yaml").write_text(yaml.safe_dump({"parameters": parameters}))
    return folder / "a.yaml"


def changed(path, **changes):
    parameters = yaml.safe_load(path.read_text())["parameters"]
    parameters["ablation"]["rows"][1] |= changes
    return write(path.parent, parameters)


def test_a_row_is_the_configuration_with_what_it_sets(path):
    configs = load_ablation(path).configs()
    assert configs["default"].synthesis == Config().synthesis.model_copy(update={"steps": 12})
    assert (configs["few"].synthesis.steps, configs["few"].planning.strips) == (6, 3)
    paper = configs["paper"]
    assert (paper.synthesis.steps, paper.synthesis.shared_inversion) == (
        12,
        False,
    )  # what is given wins over the preset


def test_rows_are_chosen_and_the_reference_stays(path):
    assert load_ablation(path, rows=["paper"]).section.names == ("default", "paper")
    assert not any(row.detect for row in load_ablation(path, detect=False).section.rows)
    with pytest.raises(ConfigError, match="--rows 'pepper': no such row .*default, few, paper"):
        load_ablation(path, rows=["pepper"])


def test_overrides_reach_both_parts(path):
    found = load_ablation(
        path, ["synthesis.guidance=2.0", "inputs.sets.0.limit=3", "ablation.reconstruction.sources=2"]
    )
    assert found.configs()["few"].synthesis.guidance == 2.0
    assert found.shared().inputs.sets[0].limit == 3
    assert found.section.reconstruction.sources == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"set": {"synthesis.stepz": 3}}, r"a\.yaml: row 'few': unknown key 'synthesis\.stepz'; did you mean 'steps'"),
        ({"set": {"synthesis.steps.x.y": 3}}, r"row 'few': synthesis\.steps\.x\.y: 'steps' is a value"),
        ({"set": {"synthesis.steps": 1}}, r"row 'few': synthesis\.steps: .*greater than or equal to 2"),
        ({"set": {"synthesis.background": "free"}}, "row 'few': .*needs variant_tokens 'all'"),
        ({"set": {"perception.patch": 4}}, "row 'few': sets 'perception', which all rows share"),
        ({"name": "default"}, "two rows are called 'default'"),
        ({"name": "Few rows"}, "rows.1.name: String should match pattern"),
        ({"detekt": True}, "did you mean 'detect'"),
    ],
)
def test_a_wrong_row_is_named(path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_ablation(changed(path, **changes))


def test_what_is_missing_is_named(path):
    parameters = yaml.safe_load(path.read_text())["parameters"]
    with pytest.raises(ConfigError, match="'base' is not among the rows"):
        load_ablation(path, ["ablation.reference=base"])
    with pytest.raises(ConfigError, match="expected a mapping under 'parameters: ablation:'"):
        load_ablation(write(path.parent, {"config": parameters["config"]}))


def test_the_shipped_ablation_is_valid_and_its_rows_differ():
    found = load_ablation(DEFAULT)
    configs = found.configs()
    assert len({config.digest() for config in configs.values()}) == len(found.section.rows)
    assert {c.instruction.pairs for c in configs.values()} == {found.shared().instruction.pairs} != {None}
    free, kept = configs["background-free"], configs["background-guaranteed"]
    assert free.synthesis.model_copy(update={"background": "guaranteed"}) == kept.synthesis
    assert free.curation == kept.curation
