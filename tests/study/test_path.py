"""The study's path: rows from training, and whole in its quick form."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from pipeline import params
from pipeline.study import claims, grid, rows
from pipeline.training import train
from stages import study as stage
from tools import readme


def test_rows_say_what_was_trained_and_agree_with_the_repetition(prepared, quick):
    entry = next(entry for entry in grid.the_map(quick) if entry.task == "video")
    table = rows.frame(rows.collect([entry, replace(entry, purpose="again", keep=("none",))], "test"))
    assert len(table) == (len(entry.keep) + 1) * 2
    assert table.groupby("purpose").condition.nunique().to_dict() == {"again": 1, "map": 13}
    assert (set(table.cell), set(table["head"])) == ({"lstm"}, {"softmax"})
    assert (table.sigma_hidden == entry.work.settings.noise.sigma("hidden", "additive")).all()
    for _, repetition in train.run([entry.work], label="test", keep="study"):
        own = table[(table.repetition == repetition.number) & (table.purpose == "map")].set_index("condition")
        for place, condition in enumerate(repetition.conditions):
            row, epochs = own.loc[condition], entry.work.settings.epochs
            losses = repetition.curves[place, :, rows.METRICS.index("test_loss")].numpy()
            np.testing.assert_array_equal(row.curve, losses)
            assert row.test_loss == losses[epochs]
            assert row.validation_loss == float(repetition.validation[place, 0])
            assert not row.failed


def test_what_is_kept_is_not_trained_again_and_a_failed_network_has_no_numbers(prepared, quick, monkeypatch):
    """And a changed rule of evaluation changes the rows of what is kept."""
    place = next(iter(grid.places(quick, every_split=False)))
    work = place.work(("sgd", 1e30, 0.3, 0.0), ["blind-additive-both"], 1)
    table = rows.frame(rows.collect([grid.Entry("map", place.task, work, work.settings.conditions)], "test"))
    assert table.failed.all()
    assert table[list(rows.MEASURES)].isna().all(axis=None)
    entries = [entry for entry in grid.the_map(quick) if entry.task == "video"][:2]
    first = rows.frame(rows.collect(entries, "test"))
    monkeypatch.setattr(train, "_train_stack", lambda stack: pytest.fail("trained again"))
    again = rows.frame(rows.collect(entries, "test"))
    pd.testing.assert_frame_equal(again, first)
    monkeypatch.setattr(rows, "calibration_error", lambda predictions, labels: 7.0)
    assert (rows.frame(rows.collect(entries, "test")).calibration_error[~first.failed] == 7).all()


PICTURES = ("map_fx", "map_video", "against_noiseless", "theory", "groups_video", "classes_video")


def test_the_quick_study_is_whole(prepared):
    """Killed and resumed: tests/faults."""
    assert stage.main(["quick"]) == 0
    folder = stage.FOLDER / "quick"
    table = pd.read_csv(folder / "claims.csv", dtype=str, keep_default_na=False)
    assert tuple(table.columns) == claims.COLUMNS
    assert len(table) == len(claims.load()) + 1
    kinds = (claims.SUPPORTED, claims.ONLY_IF, claims.NONE, claims.OPPOSITE, claims.UNDECIDED)
    assert table.verdict.str.startswith(kinds).all()
    assert table.condition_of_verdict[:-1].str.contains("GENERATED").all(), "results must say what their data are"
    pictures = {file.name for file in folder.glob("*.png")}
    assert pictures == {f"study_{n}.png" for n in PICTURES}
    page = (folder / "study.html").read_text("utf-8")
    assert page.count("data:image/png") == len(PICTURES)
    assert "GENERATED" in page
    compared = pd.read_csv(folder / "comparisons.csv")
    references = {"none", "blind", "matched", "expected-nem", grid.SAME_RATE, "base", "rescaled"}
    assert set(compared.reference) == references
    same = compared[(compared.reference == "none") & (compared.purpose == "slow")]
    assert set(same.condition) == set(grid.EVERY[1:])
    assert (same.learning_rate == same.task.map({"fx": 0.01, "video": 0.01})).all()


def test_without_data_the_message_says_what_to_do(project, quick, capsys):
    (project / "params.yaml").write_text(params.render(params.Params()), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        grid.the_map(quick)
    assert stage.main(["judge"]) == 1
    assert "study: expected" in capsys.readouterr().err


def test_the_page_gets_the_summary_and_its_pictures(project):
    """Where there is no study, the page stays."""
    before = "Rules\n<!-- study:start -->\nold\n<!-- study:end -->\nend\n"
    readme.IMAGES.mkdir(parents=True)
    for file in (readme.README, readme.STUDY):
        file.write_text(before)
    assert readme.main() == 0
    assert readme.STUDY.read_text() == before
    readme.SUMMARY.parent.mkdir(parents=True)
    readme.SUMMARY.write_text("### Numbers\n")
    readme.SUMMARY.with_name("study_map_fx.png").write_bytes(b"picture")
    assert readme.main() == 0
    shown = "### Numbers\n\n![study map fx](images/study_map_fx.png)"
    assert readme.STUDY.read_text() == before.replace("old", shown)
    assert (readme.IMAGES / "study_map_fx.png").read_bytes() == b"picture"
    assert readme.README.read_text() == before
