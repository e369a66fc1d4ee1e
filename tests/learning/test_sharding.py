"""Settings that cannot work together are refused before anything is loaded; configurations say what was asked."""

from __future__ import annotations

import pytest

from artiagent.config import SftSection
from artiagent.learning import sharding
from artiagent.learning.sharding import check_section, deepspeed_config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sharding": "fsdp"}, "sft.processes is 1"),
        ({"sharding": "zero2", "processes": 2}, "needs the package deepspeed.*pip install deepspeed"),
        ({"dtype": "bfloat16"}, "set sft.dtype to float32"),
        ({"dtype": "bfloat16", "method": "lora", "sharding": "fsdp", "processes": 2}, "weights of one type"),
        ({"loss": "tokens+margin", "sharding": "fsdp", "processes": 2}, "output embedding"),
        ({"group_by_length": True, "sampler": "shuffled"}, "set sft.sampler to paired"),
        ({"device": "cuda", "processes": 2}, "no GPU is visible"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "find_spec", lambda _: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        check_section(SftSection(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "lora", "dtype": "bfloat16"},
        {"processes": 2, "sharding": "fsdp", "device": "cpu"},
        {"processes": 2, "sharding": "zero3", "dtype": "bfloat16", "device": "cpu"},  # ZeRO keeps a float32 copy
        {"processes": 2, "loss": "tokens+margin", "sharding": "zero2", "device": "cpu"},
    ],
)
def test_what_can_work_is_not(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "find_spec", lambda _: object())
    check_section(SftSection(**settings))


def test_deepspeed_leaves_sizes_and_rates_to_the_trainer() -> None:
    for name, stage in (("zero2", 2), ("zero3", 3)):
        config = deepspeed_config(name)
        assert config["zero_optimization"]["stage"] == stage
        assert ("stage3_gather_16bit_weights_on_model_save" in config["zero_optimization"]) == (stage == 3)
        sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
        assert {config[key] for key in sizes} == {"auto"}
        assert config["bf16"] == {"enabled": "auto"}
