"""Own sequences: every way to write them is read alike, every fault is named before any work, splits keep apart."""

import io
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline import params
from pipeline.own import arrays, split
from pipeline.own.arrays import OwnError
from tests.conftest import refused

RANDOM = np.random.default_rng(3)
N, T, I = 24, 5, 2
X = RANDOM.normal(size=(N, T, I)).astype(np.float32)
CLASS = np.arange(N) % 3
NAMES = np.array(["a", "b", "c"])[CLASS]
LABELS = np.stack([CLASS != 1, CLASS != 2], 1)
VALUES = RANDOM.normal(size=(N, 2))
GROUP = [f"g{k // 4}" for k in range(N)]
LENGTHS = 2 + CLASS


def asked(**changes):
    return params.OwnSequences(**changes)


def written(folder, kind, **content):
    file = folder / f"mine.{kind}"
    if kind == "npz":
        np.savez(file, **content)
    else:
        plain = {
            name: [v.tolist() if isinstance(v, np.ndarray) else v for v in column] for name, column in content.items()
        }
        pd.DataFrame(plain).to_parquet(file)
    return file


@pytest.mark.parametrize(
    "y", [CLASS, NAMES, VALUES[:, 0], VALUES, LABELS], ids=["class", "name", "value", "values", "label"]
)
def test_both_files_and_arrays_are_read_alike(tmp_path, y):
    own = arrays.of_arrays(X, y, GROUP)
    np.testing.assert_array_equal(own.slices.reshape(N, T, I), X, strict=True)  # and of the same type
    for kind in ("npz", "parquet"):
        read = arrays.read(written(tmp_path, kind, x=X, y=y, group=GROUP))
        np.testing.assert_array_equal(read.slices, own.slices, strict=True)
        assert read.lengths.tolist() == [T] * N
        assert read.group == own.group
        assert read.y.tolist() == own.y.tolist()


def test_sequences_of_several_lengths_are_cut_at_their_true_ends_and_padded_before_their_first(tmp_path):
    ragged = [x[:n] for x, n in zip(X, LENGTHS, strict=True)]
    padded = np.where(
        np.arange(T)[None, :, None] < LENGTHS[:, None, None], X, np.nan
    )  # what lies beyond is not looked at
    ways = [
        arrays.of_arrays(ragged, CLASS),
        arrays.of_arrays(padded, CLASS, lengths=LENGTHS),
        arrays.read(written(tmp_path, "npz", x=padded, y=CLASS, lengths=LENGTHS)),
        arrays.read(written(tmp_path, "parquet", x=ragged, y=CLASS)),
    ]
    for own in ways:
        table = split.table(own, asked(slices=2, scaling="none"), 1)
        seen = table.pools[""][table.index]
        for x, mine in zip(ragged, seen, strict=True):
            np.testing.assert_array_equal(mine, x[-2:], strict=True)
    for slices, most in ((None, 4), (3, 3)):
        table = split.table(ways[0], asked(slices=slices, scaling="none"), 1)
        for x, index in zip(ragged, table.index, strict=True):
            count = min(len(x), most)
            assert (index[: most - count] == -1).all()
            np.testing.assert_array_equal(table.pools[""][index[most - count :]], x[-count:], strict=True)
    for wrong in ([], [X[0], X[0, :, :1]], [X[0, :3], X[0, 0, 0]]):
        refused(
            OwnError, r"sequences \(T, I\) with one I in x, found shapes", arrays.of_arrays, wrong, [0] * len(wrong)
        )
    assert arrays.of_arrays(X[..., 0], CLASS).slices.shape == (N * T, 1)


BAD = np.where(np.arange(N)[:, None, None] == 7, np.nan, X)


@pytest.mark.hostile
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": BAD, "y": CLASS}, r"finite numbers in x.*sequence 7 \(slice 0, from 0\), and in 5 slices"),
        ({"x": X.astype(np.float64) * 1e300, "y": CLASS}, "finite numbers in x"),
        ({"x": X[0], "y": CLASS}, r"y of shape \(N,\) or \(N, K\) for the N = 5"),
        ({"x": X[:0], "y": CLASS[:0]}, r"none of them 0, found \(0, 5, 2\)"),
        ({"x": X[None], "y": CLASS}, r"shape \(N, T, I\)"),
        ({"x": X.astype(str), "y": CLASS}, "expected numbers in x, found <U"),
        ({"x": X, "y": CLASS[:-1]}, r"N = 24 sequences in x, found int64 of shape \(23,\)"),
        ({"x": X, "y": VALUES[..., None]}, r"found float64 of shape \(24, 2, 1\)"),
        (
            {"x": X, "y": np.where(CLASS, VALUES[:, 0], np.inf)},
            "finite numbers in y, found inf in sequence 0, 8 in all",
        ),
        ({"x": X, "y": np.where(CLASS, NAMES, "")}, "numbers or names of classes"),
        ({"x": X, "y": CLASS, "group": GROUP[:-1]}, "a group for each of the 24"),
        ({"x": X, "y": CLASS, "lengths": LENGTHS - 2}, "whole numbers from 1 to 5"),
        ({"x": X, "y": CLASS, "time": CLASS}, "expected x, y and, .* found x, y, time"),
        ({"x": X}, "found x; write it with these names"),
        ({"x": np.array([X[0], None], object), "y": CLASS[:2]}, "Object arrays cannot be loaded"),
    ],
)
def test_arrays_that_are_no_sequences_are_named_with_what_to_do(tmp_path, content, words):
    refused(OwnError, words, arrays.read, written(tmp_path, "npz", **content))


@pytest.mark.hostile
def test_files_that_are_none_too_large_or_damaged_are_refused_unread(tmp_path, monkeypatch):
    refused(FileNotFoundError, "correct own.acquire.path", arrays.read, tmp_path / "none.npz")
    refused(OwnError, "own.acquire.path for the task", arrays.acquire, None, "", "")
    for name in ("mine.npz", "mine.parquet"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 no archive")
        refused(OwnError, "expected a sound file", arrays.read, tmp_path / name)
    (tmp_path / "mine.csv").write_text("x,y")
    refused(OwnError, r"expected a file \.npz or \.parquet", arrays.read, tmp_path / "mine.csv")
    stream, claim = io.BytesIO(), io.BytesIO()
    np.save(stream, X)
    np.lib.format.write_array_header_1_0(claim, {"descr": "<f8", "fortran_order": False, "shape": (10**14,)})
    for x in (stream.getvalue()[:-40], claim.getvalue()):
        with zipfile.ZipFile(tmp_path / "cut.npz", "w") as file:
            file.writestr("x.npy", x)
            file.writestr("y.npy", stream.getvalue())
        refused(OwnError, "expected (a sound file|plain arrays).*found", arrays.read, tmp_path / "cut.npz")
    rows = {"x": [[[1.0, 2.0], [3.0]]], "y": [1]}
    refused(OwnError, "a list of I numbers, none missing", arrays.read, written(tmp_path, "parquet", **rows))
    for x in ([[[1.0, None]]], [[]], [[None]], ["text"]):
        refused(OwnError, "sound file", arrays.read, written(tmp_path, "parquet", x=x, y=[1]))
    one_each = arrays.of_arrays(X, np.arange(N))
    refused(OwnError, "one of each class.*set own.sequences.head to identity", split.table, one_each, asked(), 1)
    files = [written(tmp_path, kind, x=X, y=CLASS) for kind in ("npz", "parquet")]
    monkeypatch.setattr(arrays, "memory", lambda: 900)
    for file in files:
        refused(OwnError, "a quarter of this machine's memory", arrays.read, file)


@pytest.mark.hostile
@pytest.mark.filterwarnings("error::UserWarning:pipeline", "error:The given NumPy array")
@pytest.mark.parametrize("kind", ["stored", "deflated", "parquet"])
def test_a_damaged_file_is_read_as_it_was_or_named(tmp_path, kind):
    """Bytes changed or cut anywhere: no other error than ours, which names the file."""
    file = tmp_path / ("mine.parquet" if kind == "parquet" else "mine.npz")
    if kind == "parquet":
        pq.write_table(pa.table({"x": pa.array(X.astype(np.float32).tolist(), pa.list_(pa.list_(pa.float32()))),
                                 "y": CLASS}), file)  # fmt: skip
    else:
        {"stored": np.savez, "deflated": np.savez_compressed}[kind](file, x=X, y=CLASS)
    whole, random, refusals = file.read_bytes(), np.random.default_rng(1), 0
    np.testing.assert_array_equal(arrays.read(file).slices.reshape(X.shape), X, strict=True)
    for k in range(150):
        content = bytearray(whole)
        content[random.integers(len(content))] = random.integers(256)
        file.write_bytes(content if k % 5 else content[: random.integers(len(content))])
        try:
            arrays.read(file)
        except OwnError as error:
            refusals += 1
            assert str(file) in str(error)
    assert refusals > 30


KINDS = ("<f4", "<f8", "i1", "<i8", "<U1", "?")


@st.composite
def given_arrays(draw):
    """Arrays x and y that often have as many rows: of any kind, with NaN, huge numbers, empty texts."""
    n, sizes = draw(st.integers(0, 6)), st.lists(st.integers(0, 3), max_size=2)
    rows = st.sampled_from([n, n, n, 2])
    shapes = ((draw(rows), *draw(st.sampled_from([(2,), (2, 1), (3, 2), (0, 1)]))), (draw(rows), *draw(sizes)))
    return [draw(arrays_of.arrays(draw(st.sampled_from(KINDS)), shape)) for shape in shapes]


@pytest.mark.hostile
@settings(max_examples=300)
@given(given_arrays(), st.sampled_from(["auto", "softmax", "identity", "logistic"]))
def test_whatever_is_given_is_learnt_from_or_an_error_of_one_kind(given_, head):
    try:
        table = split.table(arrays.of_arrays(*given_), asked(head=head), 1)
    except OwnError as error:
        assert "expected" in str(error)
        assert "found" in str(error)
    else:
        assert np.isfinite(table.targets).all()
        assert np.isfinite(table.pools[""]).all()
        assert {"train", "test"} <= set(table.splits["random"])


def test_the_head_is_that_of_y_unless_it_is_named():
    one = np.eye(3)[CLASS]
    for y, head in (
        (CLASS, "softmax"),
        (NAMES, "softmax"),
        (VALUES, "identity"),
        (LABELS, "logistic"),
        (CLASS / 2, "identity"),
    ):
        assert split.head_of(arrays.of_arrays(X, y).y, "auto") == head
    refused(OwnError, r"a single 1 in every row; set own.sequences.head to softmax", split.head_of, one, "auto")
    assert [split.head_of(one, head) for head in ("softmax", "logistic")] == ["softmax", "logistic"]
    for y, head in ((VALUES, "softmax"), (VALUES, "logistic"), (NAMES, "identity"), (NAMES, "logistic")):
        refused(OwnError, f"with own.sequences.head {head}, found", split.head_of, y, head)
    same = [split.table(arrays.of_arrays(X, y), asked(head="softmax"), 1) for y in (one, CLASS, CLASS.astype(float))]
    assert all(np.array_equal(table.targets, one) and table.classes == ("0", "1", "2") for table in same)
    table = split.table(arrays.of_arrays(X, VALUES), asked(), 1, "metres")
    np.testing.assert_allclose(table.targets * table.target_scale + table.target_offset, VALUES, atol=1e-6)
    assert (table.unit, table.head, table.classes) == ("metres", "identity", ())


@given(
    st.integers(0, 99), st.floats(0.05, 0.6), st.floats(0, 0.5), st.sampled_from(["random", "groups", "order", "auto"])
)
def test_splits_keep_what_they_promise(seed, test, validation, kind):
    own = arrays.of_arrays(X, CLASS, GROUP)
    wanted = asked(split=kind, test_fraction=test, validation_fraction=validation)
    name, side = split.sides(own, CLASS, wanted, seed)
    assert name == ("groups" if kind == "auto" else kind)
    of = {s: np.flatnonzero(side == s) for s in ("train", "validation", "test")}
    assert min(len(of["train"]), len(of["test"])) > 0
    if name == "groups":
        assert all(len({side[k] for k in range(N) if GROUP[k] == g}) == 1 for g in GROUP)
    if name == "order":
        assert list(side) == sorted(side, key=["train", "validation", "test"].index)
        assert len(of["test"]) == max(1, round(N * test))
    if name == "random":
        assert {CLASS[k] for k in of["train"]} == {CLASS[k] for k in of["test"]} == {0, 1, 2}
    table = split.table(own, asked(split="random", test_fraction=test), seed)
    train = table.pools[""][table.index[table.splits["random"] == "train"]].reshape(-1, I)
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-5)


def test_splits_that_cannot_be_are_refused():
    own, one, none = (arrays.of_arrays(X, CLASS, group) for group in (GROUP, ["g"] * N, None))
    refused(OwnError, r"two groups or more, found \['g'\]", split.table, one, asked(), 1)
    refused(OwnError, "a group of each sequence", split.table, none, asked(split="groups"), 1)
    refused(OwnError, "some of the 6 groups and not all, found", split.table, own, asked(test_groups=["g9"]), 1)
    refused(OwnError, "no own.sequences.test_groups", split.table, own, asked(split="order", test_groups=["g1"]), 1)
    _, side = split.sides(own, CLASS, asked(test_groups=["g1", "g2"]), 1)
    assert {g for g, s in zip(GROUP, side, strict=True) if s == "test"} == {"g1", "g2"}
    last = np.where(np.arange(N) < 20, CLASS % 2, 2)
    words = r"every class in a training sequence, found 1 in none \(2\).*\(own.sequences.split is order\)"
    refused(OwnError, words, split.table, arrays.of_arrays(X, last), asked(split="order"), 1)
    never = np.stack([CLASS == 0, np.zeros(N)], 1)
    refused(OwnError, "every label in a training", split.table, arrays.of_arrays(X, never), asked(), 1)
    refused(
        OwnError,
        r"two classes or more in y, found only \[4\]",
        split.table,
        arrays.of_arrays(X, CLASS * 0 + 4),
        asked(),
        1,
    )
    refused(OwnError, "values that differ", split.table, arrays.of_arrays(X, CLASS * 0.0), asked(), 1)
    far = np.where(np.arange(N)[:, None, None] < 20, X * 1e-30, 1e30)
    refused(OwnError, "inputs that the scale", split.table, arrays.of_arrays(far, CLASS), asked(split="order"), 1)
