"""Video evaluation: baselines, errors by class, leakage, Figure 7, all with known answers."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline import paths, records
from pipeline.evaluation import evaluate, metrics, video
from pipeline.params import Evaluate
from pipeline.training import results
from pipeline.video import clips, features
from tests.evaluation import fabricate

CONDITIONS = ["none", "blind-additive-output", "blind-additive-both", "nem-additive-output", "nem-additive-both"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated-video")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])  # has its own tests
        settings = fabricate.video_params(conditions=CONDITIONS)
        for task in ("video", "video_groups"):
            for cell in ("lstm", "gru"):
                fabricate.video_run(settings, task, cell)
        evaluate.evaluate(settings)
    return folder, settings


@pytest.fixture
def evaluated(whole, monkeypatch):
    monkeypatch.chdir(whole[0])
    monkeypatch.setattr(evaluate.geometry, "draw_geometry", lambda folder, seed: [])
    return whole[1]


def test_every_file_is_there_and_two_evaluations_are_equal_bytes(evaluated):
    def hashes():
        return {
            str(f.relative_to(paths.RESULTS)): records.sha256_of(f) for f in paths.RESULTS.rglob("*") if f.is_file()
        }

    found = hashes()
    wanted = {f"tables/{prefix}table_{n}.csv" for n in (1, 2, 3, 4) for prefix in ("", "groups_")}
    wanted |= {f"tables/{name}.csv" for name in ("class_accuracy", "confusion", "leakage_gap", "paired_differences")}
    for prefix in ("", "groups_"):
        wanted |= {f"figures/{prefix}figure_{n}{cell}.png" for n in ("9", "1b") for cell in ("", "_gru")}
    wanted |= {"figures/figure_7.png", "figures/leakage_gap.png"}
    for task in ("video", "video_groups"):
        for cell in ("lstm", "gru"):
            wanted |= {f"figures/{kind}_{task}_{cell}.png" for kind in ("overview", "confusion", "classes")}
            wanted.add(f"plots/{task}_{cell}.csv")
    assert wanted <= set(found)
    evaluate.evaluate(evaluated)
    assert hashes() == found


def test_accuracies_agree_everywhere(evaluated):
    content = json.loads(paths.METRICS.read_text())
    classes = pd.read_csv(paths.TABLES / "class_accuracy.csv")
    confusion = pd.read_csv(paths.TABLES / "confusion.csv")
    for task, prefix in (("video", ""), ("video_groups", "groups_")):
        table = pd.read_csv(paths.TABLES / f"{prefix}table_1.csv").set_index("training_algorithm")
        entry = content[task]["lstm"]
        assert table.loc["RBP with NEM noise", "additive_both"] == 100.0
        assert table.loc["RBP with NEM noise", "additive_both_paper"] == 96.70
        assert np.isnan(table.loc["RBP with NEM noise", "multiplicative_both"])
        assert table.loc["RBP without noise", "additive_output"] == pytest.approx(
            100 * entry["none"]["test_accuracy"]["mean"], rel=1e-5
        )
        for condition in CONDITIONS:
            part = classes[(classes.task == task) & (classes.cell == "lstm") & (classes.condition == condition)]
            within = (part.accuracy * part.test_clips).sum() / part.test_clips.sum()
            assert within == pytest.approx(entry[condition]["test_accuracy"]["mean"])
            counts = confusion[
                (confusion.task == task) & (confusion.cell == "lstm") & (confusion.condition == condition)
            ]
            right = counts[counts["class"] == counts.predicted]["count"].sum()
            assert right / counts["count"].sum() == pytest.approx(within)
            # All answers are given with probability 0.8.
            gaps = [abs(0.8 - a) for a in accuracies(task, condition)]
            assert entry[condition]["calibration_error"]["mean"] == pytest.approx(np.mean(gaps), abs=1e-6)
    assert content["video"]["lstm"]["blind-additive-output"]["test_accuracy"]["n"] == 2
    assert content["video"]["lstm"]["blind-additive-output"]["failed"]["mean"] == 1


def accuracies(task, condition):
    test = 14 if task == "video" else 18
    dead = {1} if condition == "blind-additive-output" else set()
    return [1 - fabricate.mistakes(task, condition, r, test) / test for r in range(3) if r not in dead]


def test_the_leakage_gap_is_the_difference_of_the_splits(evaluated):
    gaps = pd.read_csv(paths.TABLES / "leakage_gap.csv").set_index(["model", "condition"])
    content = json.loads(paths.METRICS.read_text())
    for cell in ("lstm", "gru"):
        row = gaps.loc[(cell, "none")]
        expected = np.mean(accuracies("video", "none")) - np.mean(accuracies("video_groups", "none"))
        assert row.gap == pytest.approx(expected)
        assert row.ci_low <= row.gap <= row.ci_high
        assert content["video_groups"][cell]["none"]["leakage_gap"]["mean"] == pytest.approx(expected)
        assert gaps.loc[(cell, "nem-additive-both")].gap == 0
    for name in ("majority", "nearest_centroid", "logistic_regression"):
        both = [content["baselines"][task][name] for task in ("video", "video_groups")]
        assert gaps.loc[(name, "baseline")].gap == pytest.approx(both[0] - both[1])
    page = paths.REPORT.read_text()
    assert "group-disjoint" in page
    assert "Figure 7" in page
    shown = 100 * content["video_groups"]["lstm"]["none"]["leakage_gap"]["mean"]
    assert "leakage gap [points]" in page
    assert f"<td>{shown:.3g}</td>" in page
    calibration = 100 * content["video"]["lstm"]["none"]["calibration_error"]["mean"]
    assert f"<td>{calibration:.3g}</td>" in page


def test_baselines_learn_the_class_and_are_flattered_by_leaking_groups(evaluated):
    """Groups are told apart by 2,048 numbers and classes by 300 of them: whoever saw the group has it easy."""
    found = json.loads(paths.METRICS.read_text())["baselines"]
    assert found["video_groups"]["majority"] == pytest.approx(1 / 3)
    assert found["video"]["logistic_regression"] == 1.0
    assert 1 / 3 < found["video_groups"]["logistic_regression"] <= 1.0


def test_baselines_see_no_test_clip(evaluated):
    made, table = clips.load(paths.CLIPS_TABLE), features.load(paths.FEATURES_TABLE)
    vectors = table.vectors.numpy().copy()
    before = video.references(vectors, made, "video_groups")
    test = np.unique(made.rows[made.split_groups == "test"])
    vectors[test] = np.roll(vectors[test], 8, 0)  # test videos change places: fits must not, accuracies may
    after = video.references(vectors, made, "video_groups")
    assert after["majority"] == before["majority"]
    pooled = video.mean_pooled(vectors, made.rows.astype(np.int64))
    train = made.split_groups == "train"
    assert np.array_equal(pooled[train], video.mean_pooled(table.vectors.numpy(), made.rows.astype(np.int64))[train])
    assert after["logistic_regression"] < before["logistic_regression"]


def test_pooling_in_chunks_is_pooling(monkeypatch):
    random = np.random.default_rng(0)
    vectors, rows = random.normal(size=(50, 4)).astype(np.float32), random.integers(0, 50, (23, 7))
    monkeypatch.setattr(video, "CHUNK", 5)
    assert video.mean_pooled(vectors, rows) == pytest.approx(vectors[rows].mean(1), abs=1e-6)


def test_figure_7_shows_the_frames_of_its_clip(evaluated):
    made, table = clips.load(paths.CLIPS_TABLE), features.load(paths.FEATURES_TABLE)
    name, position = video.example_clip(made)
    assert name == "diving"
    assert made.video_id[position].startswith("diving/")
    later = position + 2
    images = video.example_images(made, later, table, paths.FRAMES)
    assert images.shape == (3, 299, 299, 3)
    assert [int(image[0, 0, 0]) for image in images] == [40 + 10 * k for k in (2, 3, 4)]


def test_a_difference_of_independent_means_covers_as_often_as_it_says():
    random, covered, settings = np.random.default_rng(1), 0, Evaluate(confidence=0.9, bootstrap=400)
    for seed in range(300):
        first, second = random.normal(size=12), random.normal(loc=1, size=12)
        found = video.difference_interval(first, second, settings, seed)
        covered += found.low <= -1 <= found.high
    assert 0.80 < covered / 300 < 0.96
    assert video.difference_interval(np.ones(1), np.zeros(3), settings, 1) == metrics.Interval(1.0, None, None, 1)
    assert video.difference_interval(np.ones(0), np.zeros(3), settings, 1).mean is None


def test_a_run_of_other_data_is_refused(evaluated):
    made = clips.load(paths.CLIPS_TABLE)
    kept = paths.CLIPS_TABLE.read_bytes()
    try:
        made.label[0] = (made.label[0] + 1) % 3
    except ValueError:  # a view of the file
        made = type(made)(**{**made.__dict__, "label": np.roll(made.label, 1)})
    try:
        clips.save(made, paths.CLIPS_TABLE)
        with pytest.raises(ValueError, match="other data"):
            evaluate.evaluate(evaluated)
    finally:
        paths.CLIPS_TABLE.write_bytes(kept)


def test_predictions_of_a_run_come_back_in_order_of_clips(evaluated):
    run = results.load("video", "lstm")
    found = metrics.probabilities(run, "blind-additive-output")
    assert sorted(found) == [0, 2]
    rows, p = found[0]
    assert (np.diff(rows) > 0).all()
    assert p.shape == (len(rows), 3)
    assert p.sum(1) == pytest.approx(1, abs=1e-6)
