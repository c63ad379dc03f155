"""The stages hand on what was acquired: videos, sequences of features, or nothing."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import params
from pipeline.common import paths, sequences
from pipeline.video import clips
from pipeline.video.features import features
from stages import acquire as stage_acquire
from stages import clips as stage_clips
from stages import features as stage_features
from stages import frames as stage_frames

STAGES = (stage_frames, stage_features, stage_clips)


def configure(project, tasks=("video",), **video):
    content = {"tasks": list(tasks), "video": video}
    (project / "params.yaml").write_text(params.render(params.validate(content)))


@pytest.fixture
def vectors(project):
    """Features of two classes in three groups each, 9 frames a video but for one of 4, as people give them."""
    rng = np.random.default_rng(1)
    rows = [
        {"class": kind, "group": f"g{group}", "video": f"{kind}{group}", "frame": 2 * k, "feature": rng.normal(size=5)}
        for kind in ("jump", "run")
        for group in (1, 2, 3)
        for k in range(4 if (kind, group) == ("run", 3) else 9)
    ]
    layout = pa.schema([*((n, pa.string()) for n in ("class", "group", "video")), ("frame", pa.int32()),
                        ("feature", pa.list_(pa.float64(), 5))])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=layout), project / "given.parquet")
    return np.stack([row["feature"] for row in rows]).astype(np.float32)


def test_sequences_of_features_become_windows_of_their_own_frames(project, vectors, capsys):
    acquire = {"source": "features", "features_path": "given.parquet"}
    configure(project, acquire=acquire, frames={"short": "skip"}, clips={"stride": 2, "test_groups": ["g2"]})
    assert stage_acquire.main(["video"]) == 0
    assert [stage.main() for stage in STAGES] == [0, 0, 0]
    assert "0 unreadable" not in capsys.readouterr().out
    made = clips.load(paths.sequences("video") / "clips.parquet")
    assert made.rows.tolist()[:3] == [list(range(7)), list(range(2, 9)), list(range(9, 16))]
    assert len(made) == 2 * 5, "two windows of each video that is long enough"
    data = sequences.load(paths.sequences("video"), "groups")
    assert np.array_equal(data.train.pool[data.train.index[0]].numpy(), vectors[:7])
    assert {made.group[row] for row in data.test.rows.tolist()} == {"g2"}
    assert (data.origin["weights"], data.origin["per_clip"], data.origin["rate"]) == ("unknown", 7, 1.4)
    table = features.load(paths.FEATURES_TABLE)
    assert np.isnan(table.timestamp_s).all()
    assert table.frame_index[:3].tolist() == [0, 2, 4]


def test_a_task_that_is_switched_off_is_passed_on(project, capsys):
    configure(project, tasks=["fx"])
    assert stage_acquire.main(["video"]) == 0
    assert [stage.main() for stage in STAGES] == [0, 0, 0]
    for folder in (paths.FRAMES, paths.FEATURES, paths.sequences("video")):
        assert [file.name for file in folder.iterdir()] == [sequences.ABOUT]
        assert json.loads((folder / sequences.ABOUT).read_text()) == {"absent": True}


def test_videos_become_clips_with_a_record_of_their_features(project, weights_file, monkeypatch, capsys):
    monkeypatch.setenv("NEM_WORKERS", "1")
    size = {"synthetic_groups": 2, "synthetic_clips": 1}
    weights = {"weights": "file", "weights_path": str(weights_file), "preprocessing": "inception-2015"}
    configure(project, acquire=size, frames={"rate": 0.3, "per_clip": 1, "short": "skip"}, features=weights)
    assert stage_acquire.main(["video"]) == 0
    assert [stage.main() for stage in STAGES] == [0, 0, 0]
    assert "of 22 videos (22 ok)" in capsys.readouterr().out
    origin = sequences.load(paths.sequences("video")).origin
    assert (origin["rate"], origin["per_clip"], origin["preprocessing"]) == (0.3, 1, "inception-2015")
    assert (origin["weights"], origin["weights_path"]) == ("file", str(weights_file))
    assert len(origin["weights_sha256"]) == 64
    assert not [file for file in paths.CHECKPOINTS.rglob("*") if file.is_file()]
    (paths.FRAMES / "manifest.parquet").unlink()
    assert stage_features.main() == 1
    assert "manifest.parquet" in capsys.readouterr().err
