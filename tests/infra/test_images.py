"""Images: two, from the lock, non-root, nothing of ours and nothing secret in them; and how pods come by their code."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from pipelines import placement
from tests.infra.conftest import INFRA, ROOT, call

IMAGES = ("cpu", "cuda")
WITH_CODE = INFRA / "images" / "with_code.py"
SECRET = re.compile(r"key|token|password|secret|credential", re.I)


def instructions(name: str) -> list[tuple[str, str]]:
    """Keyword and argument, continued lines joined, comments gone."""
    text = (INFRA / "images" / f"{name}.Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.M)).splitlines()
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line)]


def arguments(name: str, keyword: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == keyword]


@pytest.mark.parametrize("name", IMAGES)
def test_base_and_tools_are_pinned(name: str) -> None:
    assert arguments(name, "FROM") == ["${BASE} AS build", "${BASE}"]
    (base,) = arguments(name, "ARG")
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm(@sha256:[0-9a-f]{64})?", base)
    run = " ".join(arguments(name, "RUN"))
    assert re.search(r"pip install --no-cache-dir uv==\d+\.\d+\.\d+", run)
    assert "--require-hashes" in run and "--constraint requirements.lock" in run
    assert "curl" not in run and "wget" not in run and "http" not in run


@pytest.mark.parametrize("name", IMAGES)
def test_pods_are_not_root_and_find_no_tools_for_it(name: str) -> None:
    assert arguments(name, "USER") == [f"{placement.USER}:{placement.USER}"]
    assert [word for word, _ in instructions(name)].index("USER") > max(
        i for i, (word, _) in enumerate(instructions(name)) if word == "RUN"
    )
    assert f"useradd --uid {placement.USER} " in arguments(name, "RUN")[-1]
    packages = re.search(r"--no-install-recommends ([\w. -]+?) &&", arguments(name, "RUN")[-1])[1].split()
    assert set(packages) <= {"libgl1", "libglib2.0-0", "gcc", "libc6-dev"}
    assert not {"git", "make", "sudo", "curl"} & set(packages)


@pytest.mark.parametrize("name", IMAGES)
def test_only_named_files_enter(name: str) -> None:
    assert not arguments(name, "ADD")
    copied = [rest.split() for rest in arguments(name, "COPY")]
    sources = {s for parts in copied if not parts[0].startswith("--from=") for s in parts[:-1]}
    assert sources == {"pyproject.toml", "requirements.lock", "infra/images/with_code.py"}
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*" and {rule.removeprefix("!") for rule in rules[1:]} == sources
    assert not [rule for rule in rules[1:] if fnmatch("data/weights/x", rule.removeprefix("!"))]
    assert sum((ROOT / source).stat().st_size for source in sources) < 2**20, "a context of more than 1 MiB"


@pytest.mark.parametrize("name", IMAGES)
def test_environment_holds_settings_only(name: str) -> None:
    names = [pair.split("=")[0] for rest in arguments(name, "ENV") for pair in rest.split()]
    assert {"ZENML_ANALYTICS_OPT_IN", "GIT_PYTHON_REFRESH", "HOME", "PATH"} <= set(names)
    assert not [n for n in names if SECRET.search(n)]
    assert not [rest for rest in arguments(name, "ARG") if SECRET.search(rest)]
    assert ("NVIDIA_DRIVER_CAPABILITIES" in names) == (name == "cuda")


def test_the_lock_holds_what_pods_import() -> None:
    """Of the extras that images install; ZenML's S3 store imports boto3, which nothing else asks for."""
    extra = re.search(r"^cluster = \[(.*)\]", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    names = {re.split(r"[<>=]", name)[0] for name in re.findall(r'"([^"]+)"', extra)}
    assert {"boto3", "kubernetes", "kfp", "dvc-s3"} <= names
    lock = (ROOT / "requirements.lock").read_text()
    for name in (*names, "s3fs", "zenml", "mlflow"):
        assert re.search(rf"^{name}==.*\\\n    --hash=sha256:", lock, re.M), name
    assert not re.search(r"https?://", lock)


def test_hadolint_has_nothing_to_say() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not on PATH")
    done = call("hadolint", *(INFRA / "images" / f"{name}.Dockerfile" for name in IMAGES))
    assert done.returncode == 0, done.stdout


class Store:
    """A folder as the object store, and archives of code in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.checkout = folder / "store", folder / "app"
        (self.folder / "code").mkdir(parents=True)

    def send(self, data: bytes, digest: str = "") -> str:
        digest = digest or hashlib.sha256(data).hexdigest()
        (self.folder / "code" / f"{digest}.tar.gz").write_bytes(data)
        return digest

    def start(self, digest: str, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """As in a pod: an environment of its own, no git on PATH; the command prints what it found."""
        probe = "import os, pathlib; print(os.getcwd(), pathlib.Path('hello.py').read_text())"
        variables = {
            "PATH": "", "HOME": str(self.folder), "ARTIAGENT_STORE": f"file://{self.folder}", "ARTIAGENT_CODE": digest,
            "ARTIAGENT_CHECKOUT": str(self.checkout), **environment,
        }  # fmt: skip
        return call(sys.executable, WITH_CODE, *more, "--", sys.executable, "-c", probe, env=variables)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def archive(**members: str) -> bytes:
    """A tar.gz of text files; a value "-> X" makes a symbolic link to X."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in members.items():
            entry = tarfile.TarInfo(name)
            if text.startswith("-> "):
                entry.type, entry.linkname = tarfile.SYMTYPE, text[3:]
                tar.addfile(entry)
            else:
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_a_pod_gets_the_code_and_becomes_the_command(store: Store) -> None:
    done = store.start(store.send(archive(**{"hello.py": "hello", "a/b.py": ""})))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(store.checkout), "hello"]
    assert (store.checkout / "a/b.py").is_file()


def test_what_is_missing_is_named(store: Store) -> None:
    done = store.start(store.send(archive(**{"hello.py": ""})), "--require=ZENML_STORE_API_KEY", "--require=HOME")
    assert done.returncode == 2 and not store.checkout.exists()
    assert "not set: ZENML_STORE_API_KEY" in done.stderr and "secret artiagent-run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("digest", "said"),
    [("main", "expected the sha256"), ("../../etc/passwd", "expected the sha256"), ("0" * 64, "FileNotFoundError")],
)
def test_code_that_is_not_there(store: Store, digest: str, said: str) -> None:
    done = store.start(digest)
    assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


def test_altered_code_is_refused(store: Store) -> None:
    done = store.start(store.send(archive(**{"hello.py": "other"}), digest="a" * 64))
    assert done.returncode == 2 and "does not have the sha256 of its name" in done.stderr
    assert not store.checkout.exists()


@pytest.mark.parametrize(
    "members",
    [{"../out.py": "x"}, {"link": "-> ../../etc/passwd"}, {"link": "-> /etc", "link/out": "x"}],
)
def test_archives_that_reach_outside_are_refused(store: Store, members: dict[str, str]) -> None:
    done = store.start(store.send(archive(**members)))
    assert done.returncode == 2 and "cannot be unpacked" in done.stderr
    assert sorted(p.name for p in store.folder.parent.iterdir()) == ["app", "store"]


def test_what_is_no_archive_is_refused(store: Store) -> None:
    done = store.start(store.send(b"no archive"))
    assert done.returncode == 2 and "cannot be unpacked" in done.stderr


def test_data_come_as_pinned(store: Store, tmp_path: Path) -> None:
    """data/ of a code archive without git, from a DVC remote."""
    content = b"one picture"
    digest = hashlib.md5(content).hexdigest()
    remote = tmp_path / "remote" / "files" / "md5" / digest[:2]
    remote.mkdir(parents=True)
    (remote / digest[2:]).write_bytes(content)
    pin = f"outs:\n- md5: {digest}\n  size: {len(content)}\n  hash: md5\n  path: data\n"
    code = archive(**{"hello.py": "hello", "data.dvc": pin, ".dvc/config": "[core]\n    analytics = false\n"})
    done = store.start(store.send(code), ARTIAGENT_DATA=str(tmp_path / "remote"), PATH=os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    assert (store.checkout / "data").read_bytes() == content


def test_data_that_are_not_there_are_an_error(store: Store, tmp_path: Path) -> None:
    pin = f"outs:\n- md5: {'0' * 32}\n  size: 3\n  hash: md5\n  path: data\n"
    code = archive(**{"hello.py": "hello", "data.dvc": pin, ".dvc/config": ""})
    (tmp_path / "remote").mkdir()
    done = store.start(store.send(code), ARTIAGENT_DATA=str(tmp_path / "remote"), PATH=os.environ["PATH"])
    assert done.returncode == 2 and "dvc pull" in done.stderr
    assert len(done.stderr.splitlines()) == 1
