"""UCF-101's features from their origin and from the mirror are the same bytes."""

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
        "group": pa.array([group for _, group in rows], pa.int16()),
        "clip": pa.array([3] * 52, pa.int16()),
        "video": [f"v_{class_name}_g{group:02d}_c03" for class_name, group in rows],
        "frame": pa.array([*range(0, 25, 2)] * 4, pa.int16()),
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
    with pytest.raises(LayoutError, match=r"expected SHA-256 .*vgg16_relu6\.parquet in the mirror, found"):
        run("ucf101")
    assert first[0]["classes"] == {"Archery": {"clips": 2, "groups": 2}, "Biking": {"clips": 2, "groups": 2}}


def test_a_wrong_byte_is_refused_and_the_rest_is_kept(run, origin):
    server, _ = origin
    sound = server.files["/v_000002.mat"]
    server.files["/v_000002.mat"] = sound[:-1] + bytes([sound[-1] ^ 1])
    with pytest.raises(download.DownloadError, match=rf"expected git blob {blob(sound)} for .*v_000002\.mat, found"):
        run("ucf101")
    assert not paths.raw("video").exists()
    server.files["/v_000002.mat"] = sound
    asked = len(server.seen)
    run("ucf101")
    assert asked + 1 <= len(server.seen) <= 5 + 1  # only what did not come before the error
    kept = len(server.seen)
    run("ucf101")
    assert len(server.seen) == kept


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
