"""A training that loses its machine goes on elsewhere from its last checkpoint, and nothing half-written counts."""

import json
import shutil
import time
from pathlib import Path

import pytest

from artiagent import exchange
from artiagent.config import RewardSection, SftSection, SftStage
from artiagent.exchange.progress import supersedes
from artiagent.learning.reward.fitting import Trainer
from artiagent.sealed import SEAL, is_whole, seal
from artiagent.store import dataset_dir

SFT = SftSection(
    stages=(
        SftStage(name="language", train_vision=False, max_steps=3, learning_rate=1e-3),
        SftStage(name="vision", train_vision=True, max_steps=5, learning_rate=1e-3),
    ),
    batch_pairs=4, lora_rank=4, threads=1, device="cpu", autocast="none", save_steps=2,
)  # fmt: skip
REWARD = RewardSection(epochs=3, resamples=200, threads=1, device="cpu", val_share=0.3, batch=8)


def checkpoint(out, name, size=100, sealed=True):
    folder = out / "stages" / name
    (folder / "inner").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes([size % 256]) * size)
    (folder / "inner" / "rng.pth").write_bytes(b"r")
    if sealed:
        seal(folder)


def below(keys, out):
    return sorted(keys(f"team/store/tuned/{out.name}/"))


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("folder", "others", "expected"),
    [
        ("s/checkpoints/checkpoint-9", ["s/checkpoints/checkpoint-10"], True),
        ("s/checkpoints/checkpoint-10", ["s/checkpoints/checkpoint-9", "s/checkpoints/checkpoint-10"], False),
        ("s/0-a/checkpoints/checkpoint-9", ["s/0-a"], True),
        ("s/0-a/checkpoints/checkpoint-9", ["s/1-b/checkpoints/checkpoint-10"], False),
        ("s/0-a-1", ["s/1-a-2"], False),
        ("s/checkpoint-x", ["s/checkpoint-2"], False),
    ],
)
def test_what_supersedes(folder, others, expected):
    assert supersedes(others, folder) is expected


def test_the_newest_checkpoints_travel_and_what_they_supersede_goes(machine, store, keys):
    machine("a")
    out = dataset_dir("tuned", "x")
    with pytest.raises(KeyboardInterrupt), exchange.mirrored(out, seconds=0.05):
        checkpoint(out, "s/0-a/checkpoints/checkpoint-9", 9)
        checkpoint(out, "s/0-a/checkpoints/checkpoint-10", 10, sealed=False)
        (out / "stages" / "verifier-0.safetensors").write_bytes(b"first")
        until(lambda: len(below(keys, out)) == 4)
        assert not [key for key in below(keys, out) if "checkpoint-10" in key], "it is not sealed"
        seal(out / "stages/s/0-a/checkpoints/checkpoint-10")
        (out / "stages" / "verifier-0.safetensors").write_bytes(b"second")
        raise KeyboardInterrupt
    seals = [key.split("/")[-2] for key in below(keys, out) if key.endswith(SEAL)]
    assert seals == ["checkpoint-10", "checkpoint-9"], "both are here"

    machine("b")
    out = dataset_dir("tuned", "x")
    with pytest.raises(KeyboardInterrupt), exchange.mirrored(out, seconds=0.05):
        assert [p.name for p in sorted(out.glob("stages/s/0-a/checkpoints/*"))] == ["checkpoint-10"]
        assert is_whole(out / "stages/s/0-a/checkpoints/checkpoint-10")
        assert (out / "stages/verifier-0.safetensors").read_bytes() == b"second"
        shutil.rmtree(out / "stages/s/0-a/checkpoints")
        until(lambda: not [key for key in below(keys, out) if "checkpoint-9/" in key])
        assert [key for key in below(keys, out) if "checkpoint-10/" in key], "nothing has taken its place"
        (out / "stages/s/0-a/training.json").write_text("[]")
        seal(out / "stages/s/0-a")
        raise KeyboardInterrupt
    assert below(keys, out) == [
        "stages/s/0-a/sealed.json", "stages/s/0-a/training.json", "stages/verifier-0.safetensors",
    ]  # fmt: skip

    machine("c")
    out = dataset_dir("tuned", "x")
    with exchange.mirrored(out):
        assert (out / "stages/s/0-a/training.json").is_file()
        shutil.rmtree(out / "stages")
        (out / "model.safetensors").write_bytes(b"m")
    assert below(keys, out) == ["files.json", "model.safetensors"]


@pytest.mark.parametrize(
    "broken", [b"not json", b"[]", b'{"../../evil": 1}', b'{"model.safetensors": "x"}', b'{"model.safetensors": 99}']
)
def test_a_seal_that_does_not_hold_is_passed_over(broken, machine, store, s3, bucket, keys, caplog):
    machine("a")
    out = dataset_dir("tuned", "x")
    with pytest.raises(KeyboardInterrupt), exchange.mirrored(out, seconds=0.05):
        checkpoint(out, "checkpoints/checkpoint-2")
        until(lambda: [key for key in below(keys, out) if key.endswith(SEAL)])
        checkpoint(out, "checkpoints/checkpoint-4")
        raise KeyboardInterrupt
    key = f"team/store/tuned/{out.name}/stages/checkpoints/checkpoint-4/sealed.json"
    s3.put_object(Bucket=bucket, Key=key, Body=broken)
    home = machine("b")
    out = dataset_dir("tuned", "x")
    with exchange.mirrored(out):
        found = [p.name for p in out.glob("stages/checkpoints/*")]
        assert found == ["checkpoint-2"] and "checkpoint-4" in caplog.text and "not used" in caplog.text
        assert not list(home.parent.rglob("evil"))
        shutil.rmtree(out / "stages")
        (out / "model.safetensors").write_bytes(b"m")
    assert below(keys, out) == ["files.json", "model.safetensors"]


def test_fine_tuning_goes_on_on_another_machine(
    machine,
    store,
    keys,
    conversations,
    tiny_vlm,
    tmp_path,
    monkeypatch,
):
    from artiagent.learning.paired import PairedTrainer
    from artiagent.learning.sft import finetune

    step, taken = PairedTrainer.training_step, []

    def training_step(self, *args, **named):
        now = (Path(self.args.output_dir).parent.name, self.state.global_step)
        if now == dies:
            raise KeyboardInterrupt
        taken.append(now)
        return step(self, *args, **named)

    monkeypatch.setattr(PairedTrainer, "training_step", training_step)
    dies = None
    whole = finetune(SFT, conversations, tiny_vlm, tmp_path / "whole")
    every = taken.copy()
    lives = [
        ("a", ("0-language", 2), every[:2]),
        ("b", ("1-vision", 3), every[2:6]),  # checkpoint 2 is the last
        ("c", None, every[5:]),
    ]
    for name, dies, expected in lives:  # noqa: B007  (read by training_step)
        machine(name)
        out = dataset_dir("tuned", "x")
        taken.clear()
        if dies:
            with pytest.raises(KeyboardInterrupt), exchange.mirrored(out):
                finetune(SFT, conversations, tiny_vlm, out)
        else:
            with exchange.mirrored(out):
                ref = finetune(SFT, conversations, tiny_vlm, out)
        assert taken == expected, name
    assert ref.sha256 == whole.sha256
    assert not [key for key in below(keys, out) if "stages" in key] and "files.json" in below(keys, out)


def test_a_reward_goes_on_on_another_machine(
    machine,
    store,
    keys,
    curated,
    tiny_clip,
    tmp_path,
    monkeypatch,
):
    from artiagent.learning.reward import train_reward

    epoch, calls = Trainer._epoch, []
    whole = train_reward(REWARD, curated, tiny_clip, tmp_path / "whole")

    def killed(self, number, *args):
        calls.append((self.name, number))
        if len(calls) == REWARD.epochs + 2:
            raise KeyboardInterrupt
        return epoch(self, number, *args)

    monkeypatch.setattr(Trainer, "_epoch", killed)
    machine("a")
    with pytest.raises(KeyboardInterrupt), exchange.mirrored(dataset_dir("tuned", "x")):
        train_reward(REWARD, curated, tiny_clip, dataset_dir("tuned", "x"))
    machine("b")
    out = dataset_dir("tuned", "x")
    with exchange.mirrored(out):
        assert json.dumps(sorted(p.name for p in out.rglob("*.safetensors"))).count("verifier") == 2
        again = train_reward(REWARD, curated, tiny_clip, out)
    assert calls == [("0", 0), ("0", 1), ("0", 2), ("1", 0), ("1", 1), ("1", 1), ("1", 2)]
    assert again.sha256 == whole.sha256 and not [key for key in below(keys, out) if "stages" in key]
