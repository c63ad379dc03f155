"""The pipeline under DVC, in a copy of this project with tiny parameters: whole, idle when repeated, and frugal."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from pipeline import params
from tests.conftest import ROOT


def tiny():
    content = params.Params(sources=["fx"], video_sets=[], tasks=["fx"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"] = 80
    content["fx"]["windows"]["train_end"] = 60
    content["evaluate"]["bootstrap"] = 100
    content["training"]["repetitions"] = 2
    for cell in ("lstm", "gru"):
        content["train"]["fx"][cell] |= {"hidden": 3, "epochs": 2, "max_epochs": 3}
    return content


def copied(folder):
    """Copy what git knows of this project (and new files it does not ignore) into a fresh repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(("pipeline/", "stages/", "profiles/", ".dvc/", "dvc.yaml", ".dvcignore", ".gitignore")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    (folder / "params.yaml").write_text(params.render(params.validate(tiny())))
    return folder


def dvc(folder, *arguments):
    scripts = os.path.dirname(sys.executable)  # noqa: PTH120
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": scripts + os.pathsep + os.environ["PATH"]}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.timeout(600)
def test_the_whole_pipeline_runs_rests_and_reruns_only_what_depends(tmp_path):
    folder = copied(tmp_path)
    first = dvc(folder, "repro")
    assert first.returncode == 0, first.stderr[-3000:]
    results = folder / "data" / "results"
    assert json.loads((results / "metrics.json").read_text())["fx"]["gru"]["none"]["test_mse"]["n"] == 2
    assert {f.name for f in (results / "tables").glob("table_*.csv")} == {f"table_{n}.csv" for n in (5, 6, 7, 8)}

    again = dvc(folder, "repro")
    assert "Data and pipelines are up to date." in again.stdout
    assert dvc(folder, "status", "-q").returncode == 0

    content = tiny()
    content["train"]["fx"]["lstm"]["sigma"]["output"]["additive"] = 0.123
    (folder / "params.yaml").write_text(params.render(params.validate(content)))
    stale = json.loads(dvc(folder, "status", "--json").stdout)
    assert set(stale) == {"train@fx-lstm"}, "one σ concerns one cell of one task (and then the evaluation)"

    content = tiny()
    content["evaluate"]["confidence"] = 0.9
    (folder / "params.yaml").write_text(params.render(params.validate(content)))
    assert set(json.loads(dvc(folder, "status", "--json").stdout)) == {"evaluate"}

    (folder / "params.yaml").write_text(params.render(params.validate(tiny())))
    shutil.rmtree(folder / "data" / "runs")
    restored = dvc(folder, "repro")
    assert restored.returncode == 0, restored.stderr[-3000:]
    assert "Running stage 'train" not in restored.stdout, "runs come back from DVC's cache"
    assert dvc(folder, "metrics", "show").returncode == 0
    assert dvc(folder, "plots", "show").returncode == 0
