"""What people see of the store: pages that compare the conditions, true times, summaries, and models of raw inputs."""

# ruff: noqa: F401, F811 - fixtures are imported, and named again where they are used
import contextlib
import functools
import json
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from nem.conditions import CONDITIONS
from pipeline import params, tasks, tracking
from pipeline.common import paths, records, sequences
from pipeline.fx import rates, windows
from pipeline.training import models
from stages import track
from tests.evaluation import fabricate
from tests.tracking import chromium
from tests.tracking.test_tracking import FAILED, FEW, FX, active, server, sync, trained, write

CHOSEN = SimpleNamespace(fx=SimpleNamespace(windows=fabricate.WINDOWS))
"""As much of params.yaml as says what the networks' inputs are."""
ASK_MODEL = """
import json, sys, mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(f"models:/{sys.argv[2]}@best")
answers = model.predict(np.load(sys.argv[3])).to_dict("list")
example = model.predict(model.input_example)
print(json.dumps([model.metadata.metadata, answers, len(example)]))
"""


def the_parent():
    (parent,) = (run for run in active() if run.data.tags[tracking.ROLE] == "parent")
    return parent


def registered(name, inputs):
    """What a new process says that loads a registered model: its metadata, its answers, its answers to its example."""
    np.save("inputs.npy", inputs)
    command = [sys.executable, "-c", ASK_MODEL, tracking.store(), name, "inputs.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_times_are_true_of_what_was_logged_live_and_no_duration_is_made_up(trained, capsys):
    record, repetitions = trained
    before = time.time()
    log = tracking.live(record)
    time.sleep(0.2)
    log(repetitions[0])
    after, first = time.time(), the_parent().info
    assert (first.status, first.start_time >= int(1000 * before)) == ("FINISHED", True)
    assert [runs for _, runs, _ in tracking.show(FX)] == [(6, 3, 3)]
    params.compose("demo")
    assert track.main([]) == 0
    assert "6 runs in the sqlite store (3 logged while they trained, 3 before)" in capsys.readouterr().out
    runs = [run for run in active() if run.data.tags[tracking.ROLE] == "network"]
    times = {run.data.tags[tracking.SLOT].split("/")[3]: run.info for run in runs}
    assert first.start_time == times["0"].start_time <= times["0"].end_time - 200
    assert times["0"].end_time == first.end_time <= 1000 * after
    assert times["1"].start_time == times["1"].end_time
    parent = the_parent()
    assert (parent.info.start_time, parent.info.end_time) == (first.start_time, first.end_time)
    assert "3 of 6 runs" in parent.data.tags["mlflow.note.content"]


def test_a_parent_says_what_was_run_and_what_came_out(trained):
    fabricate.judge(tasks.of("fx"), cells=["lstm"])
    sync(FX)
    parent, names = the_parent(), ("none", "best_minus_none", "failed_networks")
    none, best, failed = (parent.data.metrics[n if "_" in n else f"test_loss_at_R/{n}"] for n in names)
    expected = {c: [fabricate.loss(c, r, fabricate.EPOCHS) for r in range(2) if (c, r) != FAILED[:2]] for c in FEW}
    means = {condition: float(np.mean(losses)) for condition, losses in expected.items()}
    assert none == pytest.approx(means["none"])
    assert best == pytest.approx(min(means.values()) - means["none"])
    assert failed == 1
    # Twice as fast: the noiseless loss of epoch 10 is reached at epoch 5.
    assert parent.data.metrics["speed_up_percent/nem-additive-both"] == 50
    text = parent.data.tags["mlflow.note.content"]
    for part in ("3 noise conditions, 2 paired repetitions", f"{means['none']:.4g} rupees² (none)", "none registered"):
        assert part in text
    with tracking.connected() as client:
        assert [file.path for file in client.list_artifacts(parent.info.run_id, "png")] == ["png/overview_fx_lstm.png"]
    assert text.startswith("**Generated data: they cannot show an effect of noise.**")
    # Of what is somebody's it does not say so, and what has no unit is in none.
    records.write_json(paths.source_record("fx"), {"source": "csv"})
    write(about={"unit": ""})
    sync(FX)
    text = the_parent().data.tags["mlflow.note.content"]
    assert "Generated data" not in text
    assert f"{means['none']:.4g} (none)" in text
    # Other numbers are another summary of the same settings.
    write(shift=0.5)
    sync(FX)
    assert the_parent().data.metrics["test_loss_at_R/none"] == pytest.approx(means["none"] + 0.5)


def test_the_best_network_is_a_registered_model_that_takes_raw_days_and_gives_rupees(trained, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    inputs = functools.partial(track.inputs, chosen=CHOSEN)
    assert [(name, runs) for name, runs, _ in tracking.show(FX, inputs)] == [("fx lstm", (6, 0, 6))]
    out, err = capfd.readouterr()
    assert not re.search("warn|info", out + err, re.I), "a word of MLflow's reached the console"
    data, series = sequences.load(paths.sequences("fx")), rates.read(rates.RATES)
    days = windows.load(paths.sequences("fx") / windows.FILE)
    raw = np.stack([series.values[day - 4 : day] for day in days.day_index[days.where("test")]])
    about, answers, count = registered("nem-fx-lstm", raw)
    network = models.load(paths.run_folder("fx", "lstm") / "models" / f"{about['condition']}.safetensors")
    assert (network.about["repetition"], count) == (about["repetition"], 1)
    assert about["inputs"] == ["open", "high", "low", "price"]
    assert "test loss" in about["chosen_by"]
    expected = network.predict(data.test.pool[data.test.index].numpy())[:, 0] * data.target_scale + data.target_offset
    assert answers["rupees"] == pytest.approx(expected.tolist(), rel=1e-6)
    assert not [file for file in paths.DATA.absolute().parent.rglob("*") if file.suffix in (".pkl", ".pickle")]
    # The same again is no new version; rates of other days than the networks saw are told, and register nothing.
    assert [runs for _, runs, _ in tracking.show(FX, inputs)] == [(6, 0, 0)]
    rates.write(rates.Rates(series.dates, series.values + 1.0), rates.RATES)
    assert [runs for _, runs, _ in tracking.show(FX, inputs)] == [(6, 0, 0)]
    assert "no model of fx lstm was registered: expected the scaled days" in capfd.readouterr().err
    with tracking.connected() as client:
        (version,) = client.search_model_versions("name = 'nem-fx-lstm'")
    assert (int(version.version), version.run_id) == (1, the_parent().info.run_id)


@pytest.mark.slow
def test_a_registered_classifier_gives_class_names(trained):
    table = fabricate.class_data("video")
    fabricate.run("video", "gru", conditions=["none"], repetitions=1)
    list(tracking.show([("video", "gru", None)], functools.partial(track.inputs, chosen=CHOSEN)))
    about, answers, _ = registered("nem-video-gru", table.pools[""][table.index[:5]])
    assert about["classes"] == list(fabricate.CLASSES)
    probabilities = np.array([answers[name] for name in fabricate.CLASSES])
    assert probabilities.sum(0) == pytest.approx(1, abs=1e-5)
    assert answers["class"] == [fabricate.CLASSES[k] for k in probabilities.argmax(0)]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium: apt-get install chromium")
def test_the_links_of_make_ui_open_the_conditions_compared(trained, server, monkeypatch, capsys, tmp_path_factory):
    write(CONDITIONS)
    params.compose("demo")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server[1])
    assert track.main(["--serve"]) == 0
    means, beside = re.findall(r"http://\S+#\S+", capsys.readouterr().out)
    folder = tmp_path_factory.mktemp("browser")
    with contextlib.closing(chromium.Tab(folder / "profile")) as tab:
        tab.open(means)
        # A browser that never saw MLflow gets its assistant beside the page, once.
        tab.wait("document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')")
        tab.ask("document.querySelector('[data-component-id=\"mlflow.assistant.chat_panel.close\"]').click()")
        tab.wait("document.querySelectorAll('.barlayer .point').length == 13")
        text = tab.wait("document.body.innerText.includes('26 matching runs') && document.body.innerText")
        assert [name for name in CONDITIONS if f"Group: {name}\n" not in text] == []
        assert {"test_loss", "test_loss_at_R", "Group by: condition"} <= set(text.split("\n"))
        tab.picture(folder / "means.png")
        tab.open(beside)
        tab.wait("document.querySelectorAll('.barlayer .point').length == 13")
        text = tab.wait("document.body.innerText.includes('13 matching runs') && document.body.innerText")
        axes = "[...document.querySelectorAll('svg text')].map(text => text.textContent)"
        tab.wait(f"['kind', 'mode', 'place', 'test_loss_at_R'].every(name => {axes}.includes(name))")
        assert [name for name in CONDITIONS if f"fx lstm {name} #0\n" not in text] == []
        tab.picture(folder / "beside.png")
    # MLflow's own page asks for a user's name that its server does not know.
    assert [fault for fault in tab.faults if "/users/current" not in fault] == []
