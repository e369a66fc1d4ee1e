"""Settings for the whole suite: no hub, no analytics, a home of its own, no clock in property tests."""

import atexit
import os
import shutil
import sys
import tempfile

HOME = tempfile.mkdtemp(prefix="artiagent-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ["ARTIAGENT_HOME"] = HOME
os.environ["ZENML_CONFIG_PATH"] = f"{HOME}/zenml"
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ZENML_ANALYTICS_OPT_IN", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hypothesis import settings  # noqa: E402  (after the environment is set)

settings.register_profile("artiagent", deadline=None)
settings.load_profile("artiagent")

from collections.abc import Callable, Iterable, Iterator  # noqa: E402

import pytest  # noqa: E402

from artiagent.instruction.coordinates import CoordinateSpace  # noqa: E402
from artiagent.vlm.protocol import Answer, Request  # noqa: E402


def stacks() -> set[str]:
    """ZenML's stacks in this process's home; only the one it begins with where nothing has asked for ZenML yet."""
    if "zenml.client" not in sys.modules:
        return {"default"}
    from zenml.client import Client

    return {stack.name for stack in Client().list_stacks(size=1000)}


@pytest.fixture(scope="module", autouse=True)
def no_stack_left_behind() -> Iterator[None]:
    """Remove the stacks that a file's tests registered: they share a home with the files that run after them."""
    before = stacks()
    yield
    if left := stacks() - before:
        from zenml.client import Client

        for name in left:
            Client().delete_stack(name, recursive=True)


class ScriptedVlm:
    """A backend that answers by a function of the request and keeps what it was asked."""

    name = "scripted"

    def __init__(self, answer: Callable[[Request], Answer | str]) -> None:
        self.answer, self.asked = answer, []

    def space(self, width: int, height: int) -> CoordinateSpace:
        return CoordinateSpace(width, height, width, height)

    def ask(self, requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            self.asked.append(request)
            said = self.answer(request)
            yield Answer(said, tokens_in=10, tokens_out=2) if isinstance(said, str) else said

    def spent(self) -> dict[str, int]:
        return {"calls": len(self.asked)}


@pytest.fixture
def scripted() -> type[ScriptedVlm]:
    return ScriptedVlm


@pytest.fixture(scope="session")
def tiny_vlm(tmp_path_factory):
    """A random Qwen2.5-VL of the real class in its on-disk format."""
    from artiagent.checkpoints import checkpoint_ref
    from artiagent.nano.vl_model import build_model, build_processor, build_tokenizer, save_model

    folder = tmp_path_factory.mktemp("weights") / "tiny-vl"
    tokenizer = build_tokenizer()
    save_model(folder, build_model(tokenizer, hidden=48, vision_hidden=32, depth=1), build_processor(tokenizer))
    return checkpoint_ref("tiny", str(folder))
