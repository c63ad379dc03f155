"""The stages hand on what was acquired: videos, sequences of features, or nothing."""

import json

import numpy as np
import pyarrow as pa
import pytest

from pipeline import params
from pipeline.common import paths, records, sequences
from pipeline.video import clips, layout
from pipeline.video.features import features
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling
from stages import acquire as stage_acquire
from stages import clips as stage_clips
from stages import features as stage_features
from stages import frames as stage_frames


@pytest.fixture
def stages(project, monkeypatch):
    """Run all stages of videos."""
    monkeypatch.setenv("NEM_EXECUTOR", "serial")

    def run(tasks=("video",), **video):
        content = {"tasks": list(tasks), "video": video}
        (project / "params.yaml").write_text(params.render(params.validate(content)))
        assert stage_acquire.main(["video"]) == 0
        assert [stage.main() for stage in (stage_frames, stage_features, stage_clips)] == [0, 0, 0]

    return run


def test_sequences_of_features_become_windows_of_their_own_frames(project, stages, capsys):
    lengths = {(kind, f"g{group}"): 9 for kind in ("jump", "run") for group in (1, 2, 3)} | {("run", "g3"): 4}
    rows = [(*names, f"{names[0]}{names[1]}", 2 * k) for names, count in lengths.items() for k in range(count)]
    columns = dict(zip(("class", "group", "video", "frame"), zip(*rows, strict=True), strict=True))
    vectors = np.random.default_rng(1).normal(size=(len(rows), 5))
    records.write_table(project / "given.parquet", pa.table({**columns, "feature": records.lists(vectors)}))
    acquire = {"source": "features", "features_path": "given.parquet"}
    stages(acquire=acquire, frames={"short": "skip"}, clips={"stride": 2, "test_groups": ["g2"]})
    assert f"frames: {9 * 5} frames of 6 videos (5 ok, 1 short)" in capsys.readouterr().out
    with pytest.raises(frames.FramesError, match="acquire again"):
        frames.list_sequences([], layout.SEQUENCES, Sampling(), paths.FRAMES)
    made = clips.load(paths.sequences("video") / "clips.parquet")
    assert made.rows.tolist()[:3] == [list(range(7)), list(range(2, 9)), list(range(9, 16))]
    assert len(made) == 2 * 5, "two windows of each video that is long enough"
    data = sequences.load(paths.sequences("video"), "groups")
    assert np.array_equal(data.train.pool[data.train.index[0]].numpy(), vectors[:7].astype(np.float32))
    assert {made.group[row] for row in data.test.rows.tolist()} == {"g2"}
    assert (data.origin["weights"], data.origin["per_clip"], data.origin["rate"]) == ("unknown", 7, 1.4)
    table = features.load(paths.FEATURES_TABLE)
    assert np.isnan(table.timestamp_s).all()
    assert table.frame_index[:3].tolist() == [0, 2, 4]


def test_a_task_that_is_switched_off_is_passed_on(stages):
    stages(tasks=["fx"])
    for folder in (paths.FRAMES, paths.FEATURES, paths.sequences("video")):
        assert [file.name for file in folder.iterdir()] == [sequences.ABOUT]
        assert json.loads((folder / sequences.ABOUT).read_text()) == {"absent": True}


def test_videos_become_clips_with_a_record_of_their_features(stages, weights_file, capsys):
    weights = {"weights": "file", "weights_path": str(weights_file), "preprocessing": "inception-2015"}
    sampling, size = {"rate": 0.3, "per_clip": 1, "short": "skip"}, {"synthetic_groups": 2, "synthetic_clips": 1}
    stages(acquire=size, frames=sampling, features=weights)
    assert "of 22 videos (22 ok)" in capsys.readouterr().out
    origin = sequences.load(paths.sequences("video")).origin
    assert (sampling | weights).items() <= origin.items()
    assert len(origin["weights_sha256"]) == 64
    assert not [file for file in paths.CHECKPOINTS.rglob("*") if file.is_file()]
    (paths.FRAMES / "manifest.parquet").unlink()
    assert stage_features.main() == 1
    assert "manifest.parquet" in capsys.readouterr().err
