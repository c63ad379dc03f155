"""People's own sequences, in a table or a folder, become one form to the byte, or an error that says what to do."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.common import paths, records
from pipeline.video import layout
from pipeline.video.acquire import features
from pipeline.video.layout import LayoutError

VIDEOS = [("run", "1", "a"), ("run", "2", "b.x"), ("jump", "1", "c"), ("jump", "10", "d")]


def sequences(D=3, dtype=np.float32):
    """Sequences of 2-5 frames, by class, group and video."""
    random = np.random.default_rng(0)
    return {names: random.normal(size=(2 + k, D)).astype(dtype) for k, names in enumerate(VIDEOS)}


def columns(data):
    """The columns of a table with one row per frame."""
    names = [names for names, values in data.items() for _ in values]
    rows = {name: [row[k] for row in names] for k, name in enumerate(features.NAMES)}
    rows |= {"frame": [2 * k for values in data.values() for k in range(len(values))]}
    return rows | {"feature": [frame for values in data.values() for frame in values]}


def write(path, rows, **types):
    types = {"feature": pa.list_(pa.float32(), 3), **types}
    pq.write_table(pa.table({name: pa.array(column, types.get(name)) for name, column in rows.items()}), path)
    return path


def arrays(root, data):
    for (class_name, group, name), values in data.items():
        (root / class_name / group).mkdir(parents=True, exist_ok=True)
        np.save(root / class_name / group / f"{name}.npy", values)
    return root


def test_a_table_is_sorted_and_listed(run, tmp_path):
    data = sequences()
    record = run("features", features_path=str(write(tmp_path / "mine.parquet", columns(data))))
    table = records.read_table(layout.SEQUENCES, features.schema(3))
    assert table.schema.remove_metadata() == features.schema(3)
    expected = columns({names: data[names] for names in sorted(data)})
    for name, values in expected.items():
        assert np.array_equal(table[name].to_pylist(), values), name
    assert table["timestamp_s"].null_count == 14
    videos = layout.load(layout.INDEX)
    assert [(v.video_id, v.class_name, v.group) for v in videos] == [("/".join(k), *k[:2]) for k in sorted(data)]
    assert not layout.CLIPS.exists()
    assert (record["features"], record["frames"], record["dimensions"]) == ("mine.parquet", 14, 3)
    assert record["classes"]["run"] == {"clips": 2, "groups": 2}


@pytest.mark.parametrize(("dtype", "block"), [(np.float16, 1), (np.float32, 50), (np.float64, 1 << 26)])
def test_all_forms_of_the_same_numbers_give_the_same_bytes(run, tmp_path, monkeypatch, dtype, block):
    monkeypatch.setattr(features, "_BLOCK", block)
    data, contents = sequences(5, np.float16), set()
    kind = pa.from_numpy_dtype(dtype)
    rows = columns({names: values.astype(dtype) for names, values in data.items()})
    rows["frame"] = [frame // 2 for frame in rows["frame"]]
    shuffled = np.random.default_rng(block).permutation(14).tolist()
    sources = [
        write(tmp_path / "a", rows, feature=pa.list_(kind, 5)),
        write(tmp_path / "b", {name: [column[k] for k in shuffled] for name, column in rows.items()},
              feature=pa.large_list(kind), frame=pa.uint16()),
        write(tmp_path / "c", rows | {"group": [int(group) for group in rows["group"]]}, feature=pa.list_(kind),
              **{"class": pa.dictionary(pa.int8(), pa.string()), "group": pa.int16()}),
        write(tmp_path / "d", rows | {"video": [f"some/folder/{name}.AVI" for name in rows["video"]]},
              feature=pa.list_(kind)),
        arrays(tmp_path / "e", {names: np.asfortranarray(values.astype(dtype)) for names, values in data.items()}),
    ]  # fmt: skip
    for source in sources:
        run("features", features_path=str(source))
        contents.add((layout.SEQUENCES.read_bytes(), layout.INDEX.read_bytes()))
    assert len(contents) == 1


def test_times_alone_order_the_frames_and_may_stand_beside_arrays(run, tmp_path):
    data = sequences()
    rows = columns(data)
    rows["timestamp_s"] = [10 - frame / 4 for frame in rows.pop("frame")]
    run("features", features_path=str(write(tmp_path / "t", rows)))
    table = records.read_table(layout.SEQUENCES).to_pydict()
    assert table["frame"][:4] == [0, 1, 2, 3]
    assert table["timestamp_s"][:4] == [8.5, 9.0, 9.5, 10.0]
    root = arrays(tmp_path / "mine", data)
    np.save(root / "run" / "1" / "a_timestamps_ms.npy", np.array([0, 40]))
    np.save(root / "run" / "2" / "video_timestamps_ms.npy", np.array([0.0, 40, 80]))
    assert run("features", features_path=str(root))["files_ignored"] == 0
    times = records.read_table(layout.SEQUENCES)["timestamp_s"].to_pylist()
    assert times == [None] * 9 + [0, 0.04, 0, 0.04, 0.08]
    for wrong, message in (([0, 40], r"3 times for .*b\.x\.npy, found 2"), ([0, 40, 20], r"ascend.*in run/2/b\.x")):
        np.save(root / "run" / "2" / "video_timestamps_ms.npy", np.array(wrong))
        with pytest.raises(LayoutError, match=message):
            run("features", features_path=str(root))


def test_equal_sequences_are_refused_in_two_classes_and_counted_in_two_groups(run, tmp_path, capsys):
    data = sequences()
    data[VIDEOS[1]] = data[VIDEOS[0]]
    record = run("features", features_path=str(write(tmp_path / "a", columns(data))))
    assert record["warnings"] == ["1 video(s) with equal content in two groups: run/1/a = run/2/b.x"]
    assert "warning: 1 video(s) with equal content" in capsys.readouterr().out
    data[VIDEOS[2]], data[VIDEOS[0]] = -0.0 * data[VIDEOS[0]], 0 * data[VIDEOS[0]]
    with pytest.raises(LayoutError, match=r"one class, found 1 with equal content in two, such as jump/1/c = run/1/a"):
        run("features", features_path=str(write(tmp_path / "a", columns(data))))


def column(**changes):
    """A table with other columns; ``None`` leaves one out."""
    rows = columns(sequences()) | changes
    return lambda path: write(path, {name: values for name, values in rows.items() if values is not None})


def feature(value, kind, *, everywhere=False):
    """A table with another feature in its third row, or in all."""
    rows = columns(sequences(dtype=np.float64))
    rows["feature"] = [value] * 14 if everywhere else [*rows["feature"][:2], value, *rows["feature"][3:]]
    return lambda path: write(path, rows, feature=kind)


def array(content):
    """A folder with another file."""

    def put(path):
        file = arrays(path, sequences()) / "run" / "2" / "b.x.npy"
        file.write_bytes(content) if isinstance(content, bytes) else np.save(file, content)
        return path

    return put


def cut(path):
    write(path, columns(sequences())).write_bytes(path.read_bytes()[:-9])
    return path


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (column(**{"class": None}), r"columns class, group.*found 14 rows of group"),
        (column(frame=None), r"frame or timestamp_s"),
        (lambda path: write(path, {k: v[:1] for k, v in columns(sequences()).items()}), r"two classes"),
        (column(frame=[0] * 14), r"each frame of a video once.*found others in jump/1/c"),
        (column(frame=[-1, *range(13)]), r"frames below 0"),
        (column(frame=[None, *range(13)]), r"missing values in column 'frame'"),
        (column(frame=[0.5, *range(13)]), r"found: Float value 0.5.* truncated"),
        (column(timestamp_s=[float(14 - k) for k in range(14)]), r"times that ascend"),
        (column(video=[None] * 14), r"missing values in column 'video'"),
        (column(group=[1.0] * 14), r"double .*in column 'group'"),
        (column(group=["a/b"] * 14), r"'/' in column 'group'"),
        (feature(1.0, pa.float32(), everywhere=True), "lists of one length.*FloatScalar"),
        (feature(["x"], pa.list_(pa.string()), everywhere=True), "lists of one length.*'x'"),
        (feature([], pa.list_(pa.float32()), everywhere=True), "lists of one length"),
        (feature([1.0, 2], pa.list_(pa.float32())), "lists of one length.*expected size"),
        (feature(None, pa.list_(pa.float32())), "missing numbers"),
        (feature([1.0, None, 2], pa.list_(pa.float32())), "missing numbers"),
        (feature([1.0, 2, np.nan], pa.list_(pa.float32(), 3)), "finite numbers.*run/2/b.x"),
        (feature([1.0, 2, 1e39], pa.list_(pa.float64(), 3)), "finite numbers.*run/2/b.x"),
        (array(np.zeros((2, 4), np.float32)), "expected 3 numbers per frame.*found 4"),
        (array(np.zeros(3)), r"shape \(frames, D\)"),
        (array(np.zeros((0, 3))), r"shape \(frames, D\)"),
        (array(np.array([["a", "b", "c"]])), r"shape \(frames, D\)"),
        (array(np.array([[None] * 3])), "expected an array"),
        (array(b"\x93NUMPY damaged"), "expected an array"),
        (array(b""), "expected an array"),
        (cut, r"sound parquet file.*mine, found: Parquet magic"),
    ],
)
def test_what_is_of_another_kind_is_refused(run, tmp_path, make, message):
    with pytest.raises(LayoutError, match=message):
        run("features", features_path=str(make(tmp_path / "mine")))
    assert not paths.raw("video").exists()
    with pytest.raises(FileNotFoundError, match="neither"):
        run("features", features_path=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=r"video\.acquire\.features_path"):
        run("features")
