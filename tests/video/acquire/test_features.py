"""Sequences of features, people's own or UCF-101's, become one form to the byte, or an error that says what to do."""

import hashlib
import io
from itertools import product

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat

from pipeline.common import download, paths, records
from pipeline.video import layout
from pipeline.video.acquire import features, ucf101
from pipeline.video.layout import LayoutError
from tests.conftest import refused

VIDEOS = [("run", "1", "a"), ("run", "2", "b.x"), ("jump", "1", "c"), ("jump", "10", "d")]


def sequences(D=3, dtype=np.float32):
    random = np.random.default_rng(0)
    return {names: random.normal(size=(2 + k, D)).astype(dtype) for k, names in enumerate(VIDEOS)}


def columns(data):
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
    for name, values in columns({names: data[names] for names in sorted(data)}).items():
        assert np.array_equal(table[name].to_pylist(), values), name
    assert table["timestamp_s"].null_count == 14
    videos = layout.load(layout.INDEX)
    assert [(v.video_id, v.class_name, v.group) for v in videos] == [("/".join(k), *k[:2]) for k in sorted(data)]
    assert (record["features"], record["frames"], record["dimensions"]) == ("mine.parquet", 14, 3)
    assert record["classes"]["run"] == {"clips": 2, "groups": 2}


@pytest.mark.parametrize(("dtype", "block"), [(np.float16, 1), (np.float32, 50), (np.float64, 1 << 26)])
def test_all_forms_of_the_same_numbers_give_the_same_bytes(run, tmp_path, monkeypatch, dtype, block):
    monkeypatch.setattr(features, "_BLOCK", block)
    data, contents = sequences(5, np.float16), set()
    kind = pa.from_numpy_dtype(dtype)
    rows = columns({names: values.astype(dtype) for names, values in data.items()})
    rows["frame"] = [frame // 2 for frame in rows["frame"]]
    order = np.random.default_rng(block).permutation(14).tolist()
    shuffled = {name: [column[k] for k in order] for name, column in rows.items()}
    numbered = rows | {"group": [int(group) for group in rows["group"]]}
    elsewhere = rows | {"video": [f"some/folder/{name}.AVI" for name in rows["video"]]}
    words = {"class": pa.dictionary(pa.int8(), pa.string()), "group": pa.int16()}
    sources = [
        write(tmp_path / "a", rows, feature=pa.list_(kind, 5)),
        write(tmp_path / "b", shuffled, feature=pa.large_list(kind), frame=pa.uint16()),
        write(tmp_path / "c", numbered, feature=pa.list_(kind), **words),
        write(tmp_path / "d", elsewhere, feature=pa.list_(kind)),
        arrays(tmp_path / "e", {names: np.asfortranarray(values.astype(dtype)) for names, values in data.items()}),
    ]
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
        refused(LayoutError, message, run, "features", features_path=str(root))


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
    return lambda path: arrays(path, sequences() | {VIDEOS[1]: np.array(content)})


def damaged(content):
    def put(path):
        (arrays(path, sequences()) / "run" / "2" / "b.x.npy").write_bytes(content)
        return path

    return put


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
        (column(group=[1.0] * 14), r"double .*in column 'group'"),
        (column(group=["a/b"] * 14), r"'/' in column 'group'"),
        (feature(1.0, pa.float32(), everywhere=True), "lists of one length.*FloatScalar"),
        (feature([], pa.list_(pa.float32()), everywhere=True), "lists of one length"),
        (feature([1.0, 2], pa.list_(pa.float32())), "lists of one length.*expected size"),
        (feature([1.0, None, 2], pa.list_(pa.float32())), "missing numbers"),
        (feature([1.0, 2, np.nan], pa.list_(pa.float32(), 3)), "finite numbers.*run/2/b.x"),
        (feature([1.0, 2, 1e39], pa.list_(pa.float64(), 3)), "finite numbers.*run/2/b.x"),
        (array([[0.0] * 4]), "expected 3 numbers per frame.*found 4"),
        *((array(content), r"shape \(frames, D\)") for content in ([0.0] * 3, np.zeros((0, 3)), [["a", "b", "c"]])),
        (array([[None] * 3]), "expected an array"),
        *((damaged(content), "expected an array") for content in (b"\x93NUMPY damaged", b"")),
        (lambda path: path.write_bytes(b"PAR1 cut off") and path, r"sound parquet file.*mine, found: Parquet magic"),
    ],
)
def test_what_is_of_another_kind_is_refused(run, tmp_path, make, message):
    refused(LayoutError, message, run, "features", features_path=str(make(tmp_path / "mine")))
    assert not paths.raw("video").exists()
    refused(FileNotFoundError, "neither", run, "features", features_path=str(tmp_path / "none"))
    refused(FileNotFoundError, r"video\.acquire\.features_path", run, "features")


PAIRS = [("Archery", 1), ("Archery", 2), ("Biking", 1), ("Biking", 12)]


def blob(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@pytest.fixture
def origin(server, monkeypatch):
    """A server with four videos, one of them in float64 as the first of the real ones; their table; their numbers."""
    random, rows, values = np.random.default_rng(1), [], []
    for number, (class_name, group) in enumerate(PAIRS):
        values.append(random.normal(size=(25, 6)).astype(np.float64 if number == 0 else np.float32))
        savemat(file := io.BytesIO(), {"Feature": values[-1]})
        row = {"id": f"v_{number:06d}", "class": class_name, "group": str(group), "clip": "3"}
        rows.append(row | {"git_blob": blob(file.getvalue())})
        server.files[f"/{row['id']}.mat"] = file.getvalue()
    monkeypatch.setattr(ucf101, "table", lambda: rows)
    monkeypatch.setattr(ucf101, "BASE", server.base)
    return server, values


def test_origin_and_mirror_give_the_same_bytes(run, origin, tmp_path, monkeypatch):
    server, values = origin
    server.cut = [500, 700]
    first = run("ucf101"), layout.SEQUENCES.read_bytes(), layout.INDEX.read_bytes()
    assert len(server.seen) == 6
    assert sum(wanted is not None for wanted in server.seen) == 2  # two connections were cut, and resumed
    rows = [(class_name, group) for class_name, group in PAIRS for _ in range(13)]
    columns = {
        "class": pa.array([class_name for class_name, _ in rows]).dictionary_encode(),
        "group": [group for _, group in rows],
        "video": [f"v_{class_name}_g{group:02d}_c03" for class_name, group in rows],
        "frame": [*range(0, 25, 2)] * 4,
        "feature": records.lists(np.concatenate([x.astype(np.float32)[::2] for x in values]).astype(np.float16)),
    }
    file = tmp_path / "mirror" / ucf101.MIRROR
    records.write_table(file, pa.table(columns))
    monkeypatch.setattr(ucf101, "SHA256", records.sha256_of(file))
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    assert (run("ucf101"), layout.SEQUENCES.read_bytes(), layout.INDEX.read_bytes()) == first
    assert len(server.seen) == 6
    assert [video.video_id for video in layout.load(layout.INDEX)][-1] == "Biking/12/v_Biking_g12_c03"
    file.write_bytes(file.read_bytes() + b"!")
    refused(LayoutError, r"expected SHA-256 .*vgg16_relu6\.parquet in the mirror, found", run, "ucf101")
    assert first[0]["classes"] == {"Archery": {"clips": 2, "groups": 2}, "Biking": {"clips": 2, "groups": 2}}


def test_a_wrong_byte_is_refused_and_the_rest_is_kept(run, origin):
    server, _ = origin
    sound = server.files["/v_000002.mat"]
    server.files["/v_000002.mat"] = sound[:-1] + bytes([sound[-1] ^ 1])
    refused(download.DownloadError, rf"expected git blob {blob(sound)} for .*v_000002\.mat, found", run, "ucf101")
    assert not paths.raw("video").exists()
    server.files["/v_000002.mat"] = sound
    for _ in range(2):
        run("ucf101")
        assert len(server.seen) <= 5 + 1  # only what did not come before the error


def test_the_table_has_the_facts():
    rows = ucf101.table()
    classes = {row["class"] for row in rows}
    assert [row["id"] for row in rows] == [f"v_{number:06d}" for number in range(1, 1509)]
    assert len(classes) == 11
    assert {(row["class"], int(row["group"])) for row in rows} == set(product(classes, range(1, 26)))
    assert len({row["git_blob"] for row in rows if len(row["git_blob"]) == 40}) == 1508


@pytest.mark.realdata
def test_the_origins_files_become_the_mirrors_rows(mirror, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {file.stem: file for file in (mirror / "ucf101" / "vgg16_relu6").glob("*.mat")}
    rows = [row for row in ucf101.table() if row["id"] in files]
    assert len(rows) == 4  # the fifth is of a class that is not among the eleven
    assert all(ucf101.git_blob_of(files[row["id"]]) == row["git_blob"] for row in rows)
    keys, vectors = features.gather(ucf101._tracks([(row, files[row["id"]]) for row in rows]))
    table = pq.read_table(mirror / ucf101.MIRROR)
    for number, row in enumerate(rows):
        part = table.filter(pa.compute.equal(table["video"].cast(pa.string()), keys["video"][13 * number]))
        assert set(part["blob"].to_pylist()) == {row["git_blob"]}
        assert part["frame"].to_pylist() == keys["frame"][13 * number : 13 * number + 13].to_pylist()
        feature = part["feature"].combine_chunks().flatten().to_numpy().reshape(13, 4096)
        assert np.array_equal(feature.astype(np.float32), vectors[13 * number : 13 * number + 13])
