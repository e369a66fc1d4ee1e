import pytest
import yaml

from artiagent.config import Config, CurationSection, VlmSection
from artiagent.learning.sharding import check_section
from artiagent.presets import PRESETS, owned
from artiagent.run_config import ConfigError, effective_config, load_config, parse_config
from artiagent.store import checkout

CONFIGS = checkout() / "configs"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("parameters:\n  config:\n    synthesis: {steps: 6}\n")
    return file


def test_nano_names_every_key_with_its_default():
    tree = yaml.safe_load((CONFIGS / "nano.yaml").read_text())["parameters"]["config"]
    assert load_config(CONFIGS / "nano.yaml") == Config()
    named = {(section, key) for section, keys in tree.items() if isinstance(keys, dict) for key in keys}
    assert not named & owned()  # they would take the effect out of ``preset``
    defaults = Config().model_dump(mode="json")
    for section, key in owned():
        del defaults[section][key]
    assert tree == defaults


@pytest.mark.parametrize("name", ["nano", "nano_grounding", "single_gpu", "paper"])
def test_profiles_are_valid_and_keep_their_own_models(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    profile = name.replace("_", "-")
    assert config.profile == profile
    assert config.registry.vlm_name == f"artiagent-vlm-{profile}"
    assert config.registry.reward_name == f"artiagent-reward-{profile}"


def test_paper_numbers():
    config = load_config(CONFIGS / "paper.yaml")
    s = config.synthesis
    steps = [round(s.steps * f) for f in (s.pe_fraction.fuse, s.pe_fraction.remove, s.value_fraction.add)]
    assert (s.steps, steps, s.value_blocks) == (25, [20, 24, 15], 0.5)
    assert (config.planning.placement, s.shared_inversion, s.variant_tokens) == ("centroid_ring", False, "all")
    assert [stage.learning_rate for stage in config.sft.stages] == [1e-5, 1e-6]
    assert config.sft.batch_pairs * 2 * config.sft.accumulate * config.sft.processes == 64


@pytest.mark.parametrize("name", ["nano", "nano_grounding", "single_gpu", "paper"])
def test_settings_of_fine_tuning_work_together(name):
    section = load_config(CONFIGS / f"{name}.yaml").sft
    check_section(section.model_copy(update={"device": "cpu"}))  # how many accelerators are here does not matter


def test_a_preset_fills_in_what_is_not_given(path):
    config = load_config(path, ["preset=paper", "planning.strips=3"])
    assert (config.synthesis.steps, config.synthesis.shared_inversion) == (6, False)  # the file names the steps
    assert (config.planning.strips, config.planning.placement) == (3, "centroid_ring")
    assert load_config(CONFIGS / "nano.yaml", ["preset=paper"]).synthesis.steps == 25
    assert load_config(path, ["preset=fast"]) == load_config(path)


def test_unknown_preset(path):
    with pytest.raises(ConfigError, match="preset: Input should be 'fast' or 'paper'"):
        load_config(path, ["preset=quick"])


def test_every_key_of_a_preset_exists():
    for name in PRESETS:
        assert parse_config({"preset": name}).preset == name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synthesis.background=free", "variant_tokens 'all'"),
        ("synthesis.variants_per_batch=0", "expected 'auto' or at least 1"),
        ("synthesis.solver=heun", "'euler', 'rf_solver' or 'fireflow'"),
        ("synthesis.value_blocks=19", "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_work(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_unknown_key_names_the_nearest_and_the_file(path):
    with pytest.raises(ConfigError, match=r"c\.yaml: unknown key 'synthesis\.stepz'; did you mean 'steps'\?"):
        load_config(path, ["synthesis.stepz=3"])


def test_unknown_section(path):
    with pytest.raises(ConfigError, match="did you mean 'curation'"):
        load_config(path, ["curatoin.metric=ssim"])


def test_unknown_key_in_a_list_of_sections():
    with pytest.raises(ConfigError, match="did you mean 'annotations'"):
        parse_config({"inputs": {"sets": [{"name": "a", "images": "b", "anotations": "c"}]}})


def test_every_problem_is_reported(path):
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["synthesis.steps=1", "planning.variants=0"])
    assert "synthesis.steps" in str(caught.value)
    assert "planning.variants" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected section.key=value"),
        ("planning.seed.x=1", "is a value, not a section"),
        ("a=[1", "not valid"),
        ("inputs.sets.2.limit=6", "'2' is a value, not a section"),
        ("inputs.sets.0=6", "'0' is an item of a list"),
    ],
)
def test_malformed_overrides(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(CONFIGS / "nano.yaml", [override])


def test_overrides_win_and_touch_one_section(path):
    before, after = load_config(path), load_config(path, ["synthesis.steps=9"])
    assert (before.synthesis.steps, after.synthesis.steps) == (6, 9)
    changed = [s for s in Config.model_fields if getattr(before, s) != getattr(after, s)]
    assert changed == ["synthesis"]
    assert before.synthesis.digest() != after.synthesis.digest()
    assert before.planning.digest() == after.planning.digest()


def test_an_item_of_a_list_is_named_by_its_number():
    config = load_config(CONFIGS / "nano.yaml", ["inputs.sets.0.limit=6"])
    assert [source.limit for source in config.inputs.sets] == [6, None]


def test_missing_file_lists_the_others(path):
    with pytest.raises(ConfigError, match=r"no such configuration file.*c\.yaml"):
        load_config(path.with_name("d.yaml"))


@pytest.mark.parametrize("text", ["", "[1, 2]", "parameters: {}", "parameters: {config: 3}", "a: ["])
def test_not_a_run_configuration(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_config(tmp_path / "x.yaml")


def test_own_images_replace_the_input_sets(path, tmp_path):
    config = effective_config(path, [], str(tmp_path), str(tmp_path / "a.json"))
    (only,) = config.inputs.sets
    assert (only.images, only.annotations, only.scored) == (str(tmp_path), str(tmp_path / "a.json"), True)
    with pytest.raises(ConfigError, match="without --images"):
        effective_config(path, [], None, "a.json")


def test_sections_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        Config().synthesis.steps = 3


def test_how_a_result_is_obtained_stays_out_of_the_digest():
    plain = CurationSection()
    hasty = CurationSection(
        window=7, vlm=VlmSection(timeout=3, attempts=1, price_in=2.5, api_key_env="MY_KEY", batch=4)
    )
    assert hasty.digest() == plain.digest()
    for change in ({"model": "other"}, {"image_side": 512}, {"prompts": {"caption": 1}}, {"base_url": "http://b/v1"}):
        assert CurationSection(vlm=VlmSection(**change)).digest() != plain.digest()
    assert CurationSection(judge="views").digest() != plain.digest()


def test_an_alias_is_two_values_once_it_is_read(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("parameters:\n  config:\n    perception: {vlm: &a {model: one}}\n    curation: {vlm: *a}\n")
    config = load_config(file, ["curation.vlm.model=two"])
    assert (config.perception.vlm.model, config.curation.vlm.model) == ("one", "two")


@pytest.mark.parametrize(
    "url", ["https://me:pa55word@host/v1", "https://pa55word@host/v1", "http://host/v1?key=pa55word"]
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(path, url):
    with pytest.raises(ConfigError, match=r"curation\.vlm\.base_url: .*api_key_env") as caught:
        load_config(path, [f"curation.vlm.base_url={url}"])
    assert "pa55word" not in str(caught.value)
