"""What `pip install .` gives: a library that needs torch, numpy and scipy, every file that it needs, and true lists."""

import contextlib
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest

from tests.conftest import ROOT
from tests.test_imports import files, imports

HOUSES = ("nem", "pipeline", "stages")
NOT_CODE = (".pyc", ".tmp")
NEEDS = {
    "markdown_it": "markdown-it-py",
    "cv2": "opencv-python",
    "sklearn": "scikit-learn",
    "ruamel": "ruamel.yaml",
    "yaml": "pyyaml",
    "PIL": "pillow",
}
"""Modules whose distribution has another name."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline from a copy, since a build leaves files beside its sources."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in HOUSES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip("wheel", "--no-build-isolation", "--no-deps", "--no-index", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    subprocess.run(command, check=True)


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    sources = [file for house in HOUSES for file in (ROOT / house).rglob("*") if file.is_file()]
    wanted = {str(f.relative_to(ROOT)) for f in sources if "__pycache__" not in f.parts and f.suffix not in NOT_CODE}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - held == set()
    assert {name.split("/")[0].rpartition(".")[2] for name in held} == {*HOUSES, "dist-info"}


ALONE = """
import sys
sys.path += {folders!r}
import nem, torch
from nem import CONDITIONS, Noise, NoisyLSTM, nem_cross_entropy, theory
assert nem.__file__.startswith({folders!r}[0]) and len(CONDITIONS) == 13
draw = torch.manual_seed(1)
noise = Noise("nem", "additive", 0.1)
x = torch.randn(64, 5, 3, generator=draw)
y = torch.nn.functional.one_hot((x.sum((1, 2)) > 0).long(), 2).float()
layer, head = NoisyLSTM(3, 8, batch_first=True, noise=noise), torch.nn.Linear(8, 2)
optimiser = torch.optim.Adam([*layer.parameters(), *head.parameters()], 0.03)
losses = []
for _ in range(40):
    states, _ = layer(x, generator=draw)
    loss = nem_cross_entropy(head(states[:, -1]), y, noise=noise, generator=draw)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
assert theory.expected_ball_noise(torch.ones(2), 0.5).shape == (2,)
print(losses[0], losses[-1])
"""


def test_the_library_trains_a_network_beside_torch_numpy_and_scipy_alone(wheel, tmp_path):
    target, beside = tmp_path / "installed", tmp_path / "beside"
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    beside.mkdir()
    for name in closure("torch", "numpy", "scipy"):
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            if not (beside / top).exists():
                (beside / top).symlink_to(distribution.locate_file(top))
    assert not (beside / "numba").exists()
    code = ALONE.format(folders=[str(target), str(beside)])
    # -S: nothing of this environment but what lies beside.
    told = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    first, last = map(float, told.stdout.split())
    assert last < 0.7 * first


def closure(*waiting):
    """The installed distributions that some need, themselves included."""
    names, waiting = set(), list(waiting)
    while waiting:
        name = canonical(waiting.pop())
        with contextlib.suppress(metadata.PackageNotFoundError):  # needed elsewhere only
            lines = [] if name in names else metadata.requires(name) or []
            names.add(name)
            waiting += [bare(line) for line in lines if "extra ==" not in line]
    return names


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def bare(requirement):
    return canonical(re.split(r"[^A-Za-z0-9._-]", requirement)[0])


def imported(*folders):
    """Distributions of all imports below folders, wherever in a module they stand, but for this project's own."""
    names = {name for file in files(*folders) for name in imports(file)[1]} - {"tests"}
    return {canonical(NEEDS.get(name, name)) for name in names}


def test_every_import_is_declared_and_locked(wheel):
    archive, stated = zipfile.ZipFile(wheel), {"": set(), "fast": set(), "experiment": set(), "dev": set()}
    (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    for line in re.findall(r"^Requires-Dist: (.+)$", archive.read(about).decode(), re.M):
        extra = re.search(r"extra == ['\"](\w+)", line)
        stated[extra[1] if extra else ""].add(bare(line))
    assert stated[""] == {"numpy", "scipy", "torch"}
    assert imported("nem") == stated[""] | stated["fast"]
    experiment = stated[""] | stated["fast"] | stated["experiment"]
    assert imported("pipeline", "stages") <= experiment
    everything = experiment | stated["dev"]
    assert imported("tools", "tests") <= everything
    named = {bare(line) for line in (ROOT / "requirements/all.in").read_text().splitlines() if line[:1].isalpha()}
    assert everything - {"noise-boosted-rbp"} == named, "pyproject.toml and requirements/all.in name other packages"
    lock = (ROOT / "requirements/all.txt").read_text()
    assert named <= set(re.findall(r"^([a-z0-9-]+)(?:\[[a-z]+\])?==", lock, re.M)), "make a new lock"
    assert not re.search(r"https?:|--index|--find-links", lock), "a lock names no host"
