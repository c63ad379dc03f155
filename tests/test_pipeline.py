"""The pipeline's description against the code: every stage depends on every file that it reaches by import."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import params
from tests.conftest import ROOT

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())


def module_file(name):
    path = ROOT / Path(*name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def imported(file):
    """Project modules that a file imports anywhere, and the packages that hold them."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] in ("pipeline", "stages"):
                yield from (".".join(parts[:k]) for k in range(1, len(parts) + 1))


def reached(stage, task=None):
    seen, todo = set(), [ROOT / "stages" / "__init__.py", ROOT / "stages" / f"{stage}.py"]
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        todo += [found for name in imported(file) if (found := module_file(name)) is not None]
    return seen


def covered(file, deps):
    return any(file == ROOT / dep or (ROOT / dep) in file.parents for dep in deps)


@pytest.mark.parametrize("stage", sorted(DVC["stages"]))
def test_deps_name_every_file_that_a_stage_reaches(stage):
    deps = [dep for dep in DVC["stages"][stage]["deps"] if dep.startswith(("pipeline", "stages"))]
    module = DVC["stages"][stage]["cmd"].split()[2].removeprefix("stages.")
    missing = sorted(str(f.relative_to(ROOT)) for f in reached(module) if not covered(f, deps))
    assert not missing, f"add to deps of stage {stage} in dvc.yaml: {missing}"


def test_deps_exist_and_stages_have_commands():
    for name, stage in DVC["stages"].items():
        assert stage["cmd"].startswith(f"python -m stages.{name.removesuffix('_video')}")
        for dep in stage["deps"]:
            assert dep.startswith("data/") or (ROOT / dep).exists(), dep


def test_every_stage_is_a_thin_command():
    for file in (ROOT / "stages").glob("*.py"):
        if file.name != "__init__.py":
            assert len(file.read_text().splitlines()) < 90, f"{file.name}: the work belongs to the library"
            assert "def main(" in file.read_text()


@pytest.mark.parametrize(("module", "allowed"), [("mlflow", {"tracking.py", "serving.py"}), ("cv2", {"codec.py"})])
def test_only_one_module_imports_it(module, allowed):
    for file in (ROOT / "pipeline").rglob("*.py"):
        names = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert module not in names or file.name in allowed, file


def test_theory_imports_only_torch_and_scipy_and_draws_nothing():
    for file in (ROOT / "pipeline" / "theory").rglob("*.py"):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                root = (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name or "").split(".")[0]
                assert root in {
                    "__future__",
                    "math",
                    "dataclasses",
                    "typing",
                    "collections",
                    "torch",
                    "scipy",
                    "pipeline",
                    "itertools",
                }
                if root == "pipeline":
                    assert node.module.startswith("pipeline.theory")
        for word in ("randn", "torch.rand", "bernoulli(", "manual_seed", "normal_("):
            assert word not in text, f"{file.name} draws"


def test_parameters_that_stages_track_exist():
    made = params.Params().model_dump()
    for stage in DVC["stages"].values():
        for key in stage.get("params", []):
            for value in ("fx", "video") if "${item.source}" in key else ("fx",):
                name = (
                    key.replace("${item.source}", value).replace("${item.task}", "fx").replace("${item.cell}", "lstm")
                )
                node = made
                for part in name.split("."):
                    assert part in node, name
                    node = node[part]


def test_torchvision_imports():
    import torchvision

    assert torchvision.ops.nms is not None
