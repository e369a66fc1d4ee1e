import modulefinder
import shutil
import subprocess
from pathlib import Path

import pytest

from artiagent.lineage import TRANSPORT, git_revision, stage_digest, stage_files
from artiagent.store import checkout

ROOT = checkout()
STAGES = sorted(p.stem for p in (ROOT / "steps").glob("*.py") if "= cached_step(run)" in p.read_text())


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "artiagent" / "deep").mkdir(parents=True)
    (tmp_path / "steps").mkdir()
    files = {
        "artiagent/__init__.py": "",
        "artiagent/a.py": "from artiagent.deep import b\n",
        "artiagent/c.py": "X = 1\n",
        "artiagent/unused.py": "",
        "artiagent/deep/__init__.py": "",
        "artiagent/deep/b.py": "def f():\n    from ..c import X\n    return X\n",
        "steps/__init__.py": "",
        "steps/one.py": "import json\nimport artiagent.a as a\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def names(root, module):
    return {f.relative_to(root).as_posix() for f in stage_files(module, root)}


def test_follows_relative_and_local_imports(tree):
    assert names(tree, "steps.one") == {
        "steps/__init__.py", "steps/one.py", "artiagent/__init__.py", "artiagent/a.py", "artiagent/c.py",
        "artiagent/deep/__init__.py", "artiagent/deep/b.py",
    }  # fmt: skip


def test_unknown_module_is_named(tree):
    with pytest.raises(ValueError, match=r"steps\.nothing"):
        stage_files("steps.nothing", tree)


def test_import_added_later_is_seen(tree):
    before = names(tree, "steps.one")
    (tree / "artiagent" / "c.py").write_text("import artiagent.unused\n")
    assert names(tree, "steps.one") - before == {"artiagent/unused.py"}


def test_digest_does_not_depend_on_place(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("copy") / "tree"
    shutil.copytree(tree, elsewhere)
    assert stage_digest("steps.one", tree) == stage_digest("steps.one", elsewhere)


def reachable(root, stage):
    """The same question answered by the standard library: it follows the imports in the compiled code."""
    finder = modulefinder.ModuleFinder(path=[str(root)], excludes=[TRANSPORT])
    finder.run_script(str(root / "steps" / f"{stage}.py"))
    files = {Path(m.__file__).relative_to(root).as_posix() for m in finder.modules.values() if m.__file__}
    return {f for f in files if f.startswith(("artiagent/", "steps/"))}


def test_one_character_in_any_module_changes_exactly_the_stages_that_import_it(tmp_path):
    for package in ("artiagent", "steps"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    expected = {stage: reachable(tmp_path, stage) for stage in STAGES}
    before = {stage: stage_digest(f"steps.{stage}", tmp_path) for stage in STAGES}
    modules = sorted(p for package in ("artiagent", "steps") for p in (tmp_path / package).rglob("*.py"))
    assert len(STAGES) == 20
    assert len(modules) > 60
    for module in modules:
        text = module.read_text()
        module.write_text(text + "#")
        changed = {stage for stage in STAGES if stage_digest(f"steps.{stage}", tmp_path) != before[stage]}
        module.write_text(text)
        name = module.relative_to(tmp_path).as_posix()
        assert changed == {stage for stage in STAGES if name in expected[stage]}, name


def test_science_reaches_only_its_stages():
    assert "artiagent/learning/reward/training.py" in names(ROOT, "steps.train_reward")
    for stage in ("perceive", "plan", "synthesize", "curate", "evaluate_base"):
        assert "artiagent/learning/reward/training.py" not in names(ROOT, f"steps.{stage}")


def test_git_revision(tmp_path):
    assert git_revision(tmp_path) == "unknown"

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-m", "x")
    clean = git_revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "f").write_text("2")
    assert git_revision(tmp_path) == f"{clean}+dirty"


def test_prompts_and_templates_of_an_imported_package_belong_to_a_stage(tree):
    before = stage_digest("steps.one", tree)
    prompts = tree / "artiagent" / "deep" / "prompts"
    prompts.mkdir()
    (prompts / "ask.v1.md").write_text("What is it?")
    assert "artiagent/deep/prompts/ask.v1.md" in names(tree, "steps.one")
    added = stage_digest("steps.one", tree)
    (prompts / "ask.v1.md").write_text("What was it?")
    assert len({before, added, stage_digest("steps.one", tree)}) == 3
