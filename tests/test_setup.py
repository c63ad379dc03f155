"""`make setup`, `make audit`, `make check-repro`, `pip install .`: what a clone needs, a wheel holds, what differs."""

import contextlib
import copy
import datetime
import functools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from pipeline.common import records
from tests.conftest import ROOT, refused
from tests.test_imports import files, imports
from tools import audit, check_repro

LOCK = "requirements/all.txt"
DONE = (LOCK, str(Path(sys.prefix) / ".ready"), "nem/__pycache__/.compiled")
SETUP = ["make", *(f"--old-file={file}" for file in DONE), f"VENV={sys.prefix}", "setup"]
INHERITED = ("DVC_SITE_CACHE_DIR", "MAKELEVEL", "MAKEFLAGS", "MFLAGS")
"""What the make that runs the tests hands down: its level would have another one announce its folder."""


def run(folder, *command, **changes):
    own = {key: value for key, value in os.environ.items() if key not in INHERITED} | changes
    done = subprocess.run(command, cwd=folder, env=own, check=True, capture_output=True, text=True)
    assert command[0] != "make" or done.stderr == ""
    return done.stdout.strip()


def dvc(folder, *arguments, **changes):
    return run(folder, sys.executable, "-m", "dvc", *arguments, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "noted"), [("a clone", True), ("clóne", False)])
def test_dvc_keeps_its_pickles_where_only_their_owner_may_write(tmp_path, name, noted):
    """CVE-2025-69872: DVC's own default is a folder below /var/tmp that everybody may write to.

    DVC writes its settings as ASCII; make tells it any folder through the environment, and says what else to do.
    """
    clone, folder = tmp_path / name, tmp_path / name / ".dvc" / "tmp" / "site"
    run(ROOT, "git", "clone", "-q", str(ROOT), str(clone))
    (clone / "Makefile").write_text((ROOT / "Makefile").read_text() + "\nshow:\n\t@echo $$DVC_SITE_CACHE_DIR\n")
    for _ in range(2):
        told = run(clone, *SETUP, "show")
        assert told.splitlines()[-1] == str(folder)
        assert (f'export DVC_SITE_CACHE_DIR="{folder}"' in told) != noted
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (f"core.site_cache_dir={folder}" in dvc(clone, "config", "--list")) == noted
    assert run(clone, "git", "status", "--porcelain") == "M Makefile"


@pytest.mark.slow
def test_a_folder_without_git_is_known_to_dvc(tmp_path):
    """A downloaded ZIP; and once it is a repository, it is one."""
    folder, alone = tmp_path / "zip", {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    for name in ("Makefile", ".dvc/config", "dvc.yaml", "params.yaml", LOCK, "tools/plots_page.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    for git in (False, False, True):
        if git:
            run(folder, "git", "init", "-q", **alone)
        run(folder, *SETUP, **alone)
        assert ("no_scm = true" in (folder / ".dvc" / "config.local").read_text()) != git
        assert "windows" in dvc(folder, "stage", "list", "--name-only", **alone)


ENTRY = "- {package: %s, ids: [X-1], what: something that is bad, why: it is never reached here, review: 2026-01-31}"


def test_every_locked_package_is_asked_about_and_what_is_not_accepted_fails(monkeypatch, capfd):
    assert audit.main(["--dry-run"]) == 0
    assert int(re.search(r"would have audited (\d+) packages", "".join(capfd.readouterr()))[1]) > 150
    ran = []
    monkeypatch.setattr(audit.subprocess, "run", lambda told, **_: ran.extend(told) or SimpleNamespace(returncode=1))
    assert audit.main(["--other"]) == 1
    assert ran[-1] == "--other"
    assert ran[ran.index("CVE-2025-69872") - 1] == "--ignore-vuln"


def test_accepted_advisories_are_complete_current_and_of_locked_packages():
    day = datetime.date(2026, 1, 31)
    texts = [(audit.REQUIREMENTS / name).read_text() for name in ("advisories.yaml", "all.txt")]
    assert "CVE-2025-69872" in audit.accepted(*texts, day)
    assert audit.accepted("", "", day) == []
    assert audit.accepted(ENTRY % "six", "six==1\n", day) == ["X-1"]
    for text, today, message in (
        (ENTRY % "gone", day, "gone; drop"),
        ("- {package: six}", day, "complete it"),
        ((ENTRY % "six").replace("}", ", extra: 1}"), day, "complete it"),
        (ENTRY % "six", datetime.date(2026, 2, 1), "X-1 of six overdue since 2026-01-31"),
    ):
        refused(ValueError, message, audit.accepted, text, "six==1\n", today)


HOUSES = ("nem", "pipeline", "stages")
NOT_CODE = (".pyc", ".tmp")


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


@pytest.mark.slow
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
            waiting += [canonical(line) for line in lines if "extra ==" not in line]
    return names


def canonical(requirement):
    """The canonical name of a requirement's distribution."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement)[0]).lower()


def imported(*folders):
    """Distributions of all imports below folders, wherever in a module they stand, but for this project's own."""
    names = {name for file in files(*folders) for name in imports(file)[1]} - {"tests", "examples"}
    known = metadata.packages_distributions()
    several = {name: known.get(name, [name]) for name in names}
    return {canonical(name if name in several[name] else several[name][0]) for name in names}


def test_every_import_is_declared_and_locked(wheel):
    archive, stated = zipfile.ZipFile(wheel), {name: set() for name in ("", "fast", "experiment", "cluster", "dev")}
    (about,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    for line in re.findall(r"^Requires-Dist: (.+)$", archive.read(about).decode(), re.M):
        extra = re.search(r"extra == ['\"](\w+)", line)
        stated[extra[1] if extra else ""].add(canonical(line))
    assert stated[""] == {"numpy", "scipy", "torch"}
    assert imported("nem") == stated[""] | stated["fast"]
    experiment = stated[""] | stated["fast"] | stated["experiment"]
    assert imported("pipeline", "stages") <= experiment
    everything = experiment | stated["dev"]
    assert imported("tools", "tests") <= everything | stated["cluster"]
    named, peers = (
        {canonical(line) for line in (ROOT / f"requirements/{name}.in").read_text().splitlines() if line[:1].isalpha()}
        for name in ("all", "bench")
    )
    assert everything - {"noise-boosted-rbp"} == named, "pyproject.toml and requirements/all.in name other packages"
    for own, name in ((named, "all"), (stated["cluster"] - {"noise-boosted-rbp"}, "cluster"), (peers, "bench")):
        lock = (ROOT / f"requirements/{name}.txt").read_text()
        assert own <= set(re.findall(r"^([a-z0-9-]+)(?:\[[a-z]+\])?==", lock, re.M)), "make a new lock"
        assert not re.search(r"https?:|--index|--find-links", lock), "a lock names no host"


def run_of(folder, **changes):
    records.write_text(folder / "dvc.lock", "schema: '2.0'\n")
    records.write_text(folder / "data/sequences/fx/windows.csv", changes.get("csv", "day,price\n0,1.5\n1,2.5\n"))
    table = pa.table({"epoch": [1, 2], "loss": changes.get("loss", [0.5, float("nan")])})
    records.write_table(folder / "data/runs/fx/curves.parquet", table)
    weights = folder / "data/runs/fx/none.safetensors"
    save_file({"W": changes.get("W", np.zeros((2, 2), np.float32))}, weights)
    records.write_json(folder / "data/results/metrics.json", {"a": 1})
    return folder


def test_one_other_byte_or_a_missing_file_is_found_and_placed(tmp_path, capsys):
    first = run_of(tmp_path / "a")
    assert check_repro.compare(first, run_of(tmp_path / "b")) == 0
    assert "0 of 5 files differ" in capsys.readouterr().out
    for change, where in (
        ({"csv": "day,price\n0,1.5\n1,2.6\n"}, "windows.csv: line 3: 1,2.5 | line 3: 1,2.6"),
        ({"loss": [0.5, 0.25]}, "curves.parquet: column loss, row 1: nan | column loss, row 1: 0.25"),
        ({"W": np.eye(2, dtype=np.float32)[::-1].copy()}, "none.safetensors: tensor W[0, 1]: 0.0 | "),
    ):
        second = run_of(tmp_path / "b", **change)
        assert check_repro.compare(first, second) == 1
        assert where in capsys.readouterr().out
    (second / "data/sequences/fx/windows.csv").unlink()
    assert check_repro.compare(first, second) == 2
    assert "windows.csv: only the first run has it" in capsys.readouterr().out
    for run in (first, second):
        (run / "data/results/metrics.json").unlink()
    refused(check_repro.CheckError, "nothing was compared", check_repro.compare, first, second)


ACCURACIES = {"none": 0.8, "nem": 0.6}
CLIPS = {c: {"test_accuracy": {"mean": x}, "test_cross_entropy": {"mean": 1.0}} for c, x in ACCURACIES.items()}
METRICS = {
    "baselines": {"fx": {"persistence": 0.25}, "video": {"majority": 0.5}},
    "fx": {"lstm": {"none": {"test_mse": {"mean": 2.0, "ci_low": 1.0}}, "nem": {"test_mse": {"mean": 2.0}}}},
    "video": {"lstm": CLIPS},
}


@pytest.fixture
def repository(tmp_path):
    train = {
        "cmd": "python -m stages.train",
        "deps": [{"path": "pipeline", "md5": "1"}, {"path": "data/sequences/fx", "md5": "2"}],
        "params": {"params.yaml": {"seed": 1}},
        "outs": [{"path": "data/sequences/fx", "md5": "3"}, {"path": "data/runs", "md5": "4"}],
    }
    records.write_text(tmp_path / "dvc.lock", json.dumps({"stages": {"train": train}}))
    records.write_json(tmp_path / "data/results/metrics.json", METRICS)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_every_promised_metric_is_compared():
    """Of every loss, accuracy and baseline in the committed metrics, whatever the task."""
    committed = records.read_json(ROOT / "data/results/metrics.json")
    numbers = check_repro.promised(committed)
    assert {kind for kind, _ in numbers} == set(check_repro.TOLERANCES)
    others = ("failed", "skill_", "leakage_gap", "speed_up_percent", "acceptance_")
    places = list(check_repro.flat(committed))
    wanted = [p for p in places if p[0] == "baselines" or (p[-1] == "mean" and not p[-2].startswith(others))]
    assert sum(len(values) for values in numbers.values()) == len(wanted)


@pytest.mark.parametrize(
    ("place", "value", "broken"),
    [
        ("fx.lstm.none.test_mse.mean", 2.001, 0), ("fx.lstm.none.test_mse.mean", 2.01, 1),
        ("fx.lstm.none.test_mse.mean", None, 1), ("fx.lstm.none.test_mse.ci_low", 9.0, 0),
        ("fx.lstm.nem.test_mse.mean", 2.01, 0), ("fx.lstm.nem.test_mse.mean", 2.2, 1),
        ("video.lstm.none.test_accuracy.mean", 0.88, 0), ("video.lstm.none.test_accuracy.mean", 0.68, 1),
        ("video.lstm.none.test_cross_entropy.mean", 1.2, 1), ("baselines.fx.persistence", 0.2500001, 1),
        ("baselines.video.majority", 0.54, 0), ("fx.lstm.none.new", 1.0, 1),
    ],
)  # fmt: skip
def test_metrics_across_machines(repository, place, value, broken, capsys):
    changed, (*parents, last) = copy.deepcopy(METRICS), place.split(".")
    functools.reduce(dict.get, parents, changed)[last] = value
    records.write_json(repository / "data/results/metrics.json", changed)
    assert check_repro.against_lock(repository, repository) == broken
    shown = capsys.readouterr().out
    assert (".".join(parents[:2]) + "." in shown) == bool(broken)
    assert f"{broken} broken" in shown


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ('"path": "pipeline", "md5": "1"', '"path": "pipeline", "md5": "9"', "not of this commit: pipeline"),
        ('"seed": 1', '"seed": 2', "not of this commit: params.yaml"),
        ("stages.train", "stages.other", "not of this commit: cmd"),
        ('"path": "data/sequences/fx", "md5": "3"', '"path": "data/sequences/fx", "md5": "9"', "DIFFERENT"),
        ('"path": "data/runs", "md5": "4"', '"path": "data/runs", "md5": "9"', None),
        ('"path": "data/sequences/fx", "md5": "2"', '"path": "data/sequences/fx", "md5": "9"', None),
    ],
)
def test_a_stale_lock_and_bytes_promised_everywhere(repository, old, new, shown, capsys):
    text = (repository / "dvc.lock").read_text()
    assert old in text
    (repository / "dvc.lock").write_text(text.replace(old, new))
    assert check_repro.against_lock(repository, repository) == (shown is not None)
    assert (shown or "0 broken") in capsys.readouterr().out


def test_the_second_run_has_a_foreign_locale_where_one_can_be_made(tmp_path):
    settings = check_repro.foreign_locale(tmp_path)
    if settings == {"LC_ALL": "C"}:
        pytest.skip("this machine has no other locale and cannot make one")
    own = check_repro.surroundings(tmp_path / "a" / "clone", settings, tmp_path)
    code = "import locale; locale.setlocale(locale.LC_ALL, ''); print(locale.localeconv()['decimal_point'])"
    shown = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ","
