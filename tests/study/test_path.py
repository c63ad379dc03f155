"""The study's path: killed and resumed to the same bytes, and whole under DVC in its quick profile."""

import base64
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from mlflow.tracking import MlflowClient

from pipeline import paths, records, tracking
from pipeline.study import claims, data, plan, report, runs
from tests.conftest import ROOT
from tests.test_dvc import copied, dvc


@pytest.fixture
def prepared(project, monkeypatch):
    """A project folder with the quick profile's data in place, and its parameters."""
    (project / "study").symlink_to(ROOT / "study")
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    study = plan.load("quick")
    data.prepare(study, "quick")
    return study


def trained(study, entries=None):
    entries = plan.the_map(study)[:6] if entries is None else entries
    records.write_table(report.rows_file("quick", "map"), runs.train(entries, study, "quick", 5, "map"))
    return report.rows_file("quick", "map").read_bytes()


def test_an_interrupted_study_goes_on_to_the_same_bytes(prepared, monkeypatch):
    whole = trained(prepared)
    kept = sorted((paths.CHECKPOINTS / "study").glob("*.json"))
    shutil.rmtree(paths.CHECKPOINTS)
    real, done = runs.run_stack, []

    def interrupted(stack):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(stack)
        real(stack)

    monkeypatch.setattr(runs, "run_stack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(prepared)
    found = sorted((paths.CHECKPOINTS / "study").glob("*.json"))
    assert 0 < len(found) < len(kept)
    found[0].write_text("{ damaged")
    found[1].write_text("[]")
    monkeypatch.setattr(runs, "run_stack", real)
    assert trained(prepared) == whole
    monkeypatch.setattr(runs, "run_stack", lambda _: pytest.fail("everything is kept"))
    assert trained(prepared) == whole


def test_a_job_belongs_to_its_setting_data_and_code(prepared, monkeypatch):
    entries = plan.the_map(prepared)[:2]
    names = {job.kept.name for job in runs.jobs(entries, prepared, "quick", 5)}
    assert len(names) == 2 * prepared.map_repetitions
    assert not names & {job.kept.name for job in runs.jobs(entries, prepared, "quick", 6)}
    longer = prepared.model_copy(update={"fx": prepared.fx.model_copy(update={"epochs": 5})})
    assert not names & {job.kept.name for job in runs.jobs(entries, longer, "quick", 5)}
    other = prepared.model_copy(update={"fx_data": prepared.fx_data.model_copy(update={"stride": 2})})
    data.prepare(other, "quick")
    assert not names & {job.kept.name for job in runs.jobs(entries, prepared, "quick", 5)}
    monkeypatch.setattr(runs, "code_digest", lambda: "other code")
    data.prepare(prepared, "quick")
    assert not names & {job.kept.name for job in runs.jobs(entries, prepared, "quick", 5)}


def test_a_killed_process_resumes_to_the_same_bytes(prepared, project):
    command = [sys.executable, "-m", "stages.study", "map", "quick"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    kept, until = project / paths.CHECKPOINTS / "study", time.monotonic() + 120
    while len(list(kept.glob("*.json"))) < 4 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list(kept.glob("*.json")))
    assert before >= 4
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    resumed = report.rows_file("quick", "map").read_bytes()
    assert len(list(kept.glob("*.json"))) > before
    shutil.rmtree(kept)
    rows = runs.train(plan.the_map(prepared), prepared, "quick", runs.map_seed(prepared), "map")
    records.write_table(report.rows_file("quick", "map"), rows)
    assert report.rows_file("quick", "map").read_bytes() == resumed


def test_parts_share_no_vector_unless_leaky_and_no_day(prepared):
    for split, shares in (("disjoint", False), ("leaky", True)):
        found = data.load(data.file("quick", "clips", split))
        rows = [
            set(part.index.flatten().tolist()) for part in (found.problem.train, found.validation, found.problem.test)
        ]
        assert bool(rows[0] & rows[1]) == bool(rows[0] & rows[2]) == bool(rows[1] & rows[2]) == shares
        assert found.problem.head == "softmax"
    found = data.load(data.file("quick", "fx", "days"))
    ends = [int(part.index.max()) for part in (found.problem.train, found.validation, found.problem.test)]
    assert ends == sorted(ends)
    assert found.problem.head == "identity"


def test_without_vectors_and_features_the_message_says_what_to_do(project):
    (project / "study").symlink_to(ROOT / "study")
    study = plan.load("quick")
    wanted = study.model_copy(update={"clips_data": study.clips_data.model_copy(update={"source": "auto"})})
    with pytest.raises(FileNotFoundError, match="make repro"):
        data.prepare(wanted, "quick")


def test_a_damaged_data_file_is_named(prepared):
    source = data.file("quick", "fx", "days")
    source.write_bytes(source.read_bytes()[:100])
    data.load.cache_clear()
    with pytest.raises(ValueError, match=r"fx_days\.safetensors"):
        data.load(source)


@pytest.mark.timeout(600)
def test_the_quick_study_runs_under_dvc_and_the_default_graph_leaves_it_alone(tmp_path, monkeypatch):
    folder = copied(tmp_path)
    (folder / "study").mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / "study" / name, folder / "study" / name)
    assert "stages.study" not in dvc(folder, "repro", "--dry").stdout
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.delenv("NEM_MIRROR", raising=False)
    first = dvc(folder, "repro", "study/dvc.yaml:report@quick")
    assert first.returncode == 0, first.stderr[-3000:]

    monkeypatch.chdir(folder)
    results = report.results("quick")
    table = pd.read_csv(results / "claims.csv", dtype=str, keep_default_na=False)
    assert tuple(table.columns) == claims.COLUMNS
    assert len(table) == len(claims.CLAIMS) + 1
    kinds = (claims.REPRODUCED, claims.ONLY_IF, claims.NOT, claims.CONTRADICTED)
    assert table.verdict.str.startswith(kinds).all()
    for claim, where in zip(table.claim[:-1], table.condition_of_verdict[:-1], strict=True):
        assert "SYNTHETIC" in where or "GENERATED" in where, f"{claim}: results must say what their data are"
    assert {f.name for f in results.glob("*.png")} == {
        "study_map_clips.png", "study_map_fx.png", "study_against_noiseless.png", "study_theory.png"
    }  # fmt: skip
    assert "## Verdicts" in (results / "study.md").read_text()

    before = {f.name: f.read_bytes() for f in results.iterdir()}
    again = dvc(folder, "repro", "study/dvc.yaml:report@quick")
    assert "stages.study map" not in again.stdout
    study = plan.load("quick")
    report.write(study, "quick")
    assert {f.name: f.read_bytes() for f in results.iterdir()} == before

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    table = report.regimes("quick")
    settings = len(table[list(report.AXES)].drop_duplicates())
    assert tracking.sync_study(table, report.AXES, "quick", study.model_dump()) == settings
    assert tracking.sync_study(table, report.AXES, "quick", study.model_dump()) == 0
    found = MlflowClient(tracking.store()).search_runs([tracking.experiment_id("study")], max_results=1000)
    assert len(found) == settings
    assert any("nem-additive-output.test_loss" in run.data.metrics for run in found)


def test_vectors_of_the_mirror_become_clips(prepared, project, monkeypatch):
    names = [(name, f"{k}.jpg") for name in ("a", "b", "c") for k in range(30)]
    vectors = np.random.default_rng(1).normal(size=(len(names), 2048)).astype(np.float32)
    columns = {"class": [c for c, _ in names], "image": [i for _, i in names], "feature": vectors.tolist()}
    layout = pa.schema([("class", pa.string()), ("image", pa.string()), ("feature", pa.list_(pa.float32(), 2048))])
    records.write_table(project / "mirror" / data.VECTORS_MIRROR, pa.Table.from_pydict(columns, schema=layout))
    monkeypatch.setenv(paths.MIRROR_VARIABLE, str(project / "mirror"))
    wanted = prepared.model_copy(update={"clips_data": prepared.clips_data.model_copy(update={"source": "auto"})})
    record = data._clips(wanted, "quick")
    assert (record["source"], record["images"], record["classes"]) == ("vectors", 90, 3)
    data.load.cache_clear()
    found = data.load(data.file("quick", "clips", "disjoint"))
    assert found.problem.inputs == wanted.clips_data.components
    assert len(found.problem.train) == 3 * wanted.clips_data.train_per_class


def test_features_of_the_main_pipeline_become_clips_whose_groups_stay_together(prepared, project):
    from tests.evaluation import fabricate

    made = fabricate.video_data()
    wanted = prepared.model_copy(update={"clips_data": prepared.clips_data.model_copy(update={"source": "auto"})})
    record = data._clips(wanted, "quick")
    assert record["source"] == "videos of the main pipeline"
    assert "videos" in report.evidence({"fx": {"source": "paper"}, "clips": record})["clips"]
    data.load.cache_clear()
    found = data.load(data.file("quick", "clips", "disjoint"))
    owner = {int(row): video for rows, video in zip(made.rows, made.video_id, strict=True) for row in rows}
    sides = [
        {owner[row] for row in part.index.flatten().tolist()}
        for part in (found.problem.train, found.validation, found.problem.test)
    ]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert set().union(*sides) == set(owner.values())


def test_the_report_does_not_depend_on_whether_the_study_has_run(project):
    from pipeline.evaluation import evaluate
    from tests.evaluation import fabricate

    settings = fabricate.fx_params(conditions=["none", "blind-additive-output", "nem-additive-output"])
    settings = settings.model_copy(update={"cells": ["lstm"]})
    fabricate.run(settings, "lstm")
    evaluate.evaluate(settings)
    page = paths.REPORT.read_text()
    assert 'href="study.html"' in page
    records.write_text(report.results("full") / "claims.csv", "claim,verdict\nIt helps,reproduced\n")
    records.write_bytes(report.results("full") / "study_theory.png", b"picture")
    evaluate.evaluate(settings)
    assert paths.REPORT.read_text() == page


def test_the_page_shows_verdicts_as_text_and_pictures_inlined(tmp_path):
    row = dict.fromkeys(claims.COLUMNS, "") | {"claim": "1. It <helps>", "ours": "+1 %", "verdict": "contradicted"}
    row |= {"ci_low": "0", "ci_high": "2"}
    (tmp_path / "study_theory.png").write_bytes(b"picture")
    source = {"fx": {"source": "synthetic"}, "clips": {"source": "generated"}}
    page = report.page(pd.DataFrame([row]), plan.load("quick"), source, [tmp_path / "study_theory.png"])
    assert "It &lt;helps&gt;" in page
    assert "+1 % [0, 2]" in page
    assert '<td class="worse">contradicted</td>' in page
    assert base64.b64encode(b"picture").decode() in page
    assert page.count("GENERATED") == page.count("SYNTHETIC") == 1
