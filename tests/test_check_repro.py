"""The check of reproducibility finds what differs, and says where."""

import copy
import functools
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from pipeline.common import records
from tests.conftest import ROOT
from tools import check_repro


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
    with pytest.raises(check_repro.CheckError, match="nothing was compared"):
        check_repro.compare(first, second)


ACCURACIES = {"none": 0.8, "nem": 0.6}
CLIPS = {c: {"test_accuracy": {"mean": x}, "test_cross_entropy": {"mean": 1.0}} for c, x in ACCURACIES.items()}
METRICS = {
    "baselines": {"fx": {"persistence": 0.25}, "video": {"majority": 0.5}},
    "fx": {"lstm": {"none": {"test_mse": {"mean": 2.0, "ci_low": 1.0}}}},
    "video": {"lstm": CLIPS},
}


@pytest.fixture
def repository(tmp_path):
    """A repository whose commit holds a lock and metrics, and whose folder holds the same run."""
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
