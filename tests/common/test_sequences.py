"""The form of data between tasks and training: what is written is loaded, equal is equal bytes, damage is named."""

import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.common import records, sequences

N, T, K, P, I = 12, 3, 2, 20, 4
FILES = {"about.json", "sequences.parquet", "pool.safetensors"}


def table(**changes):
    generator = np.random.default_rng(1)
    first = np.array((["train"] * 3 + ["validation"] + ["test"] * 2) * 2)
    written = sequences.Table(
        rows=np.arange(100, 100 + N), index=generator.integers(0, P, (N, T)),
        targets=np.eye(K, dtype=np.float32)[np.arange(N) % K], group=[f"g{n % 3}" for n in range(N)],
        splits={"random": first, "groups": first[::-1]},
        pools={"": torch.from_numpy(generator.standard_normal((P, I)).astype(np.float32))},
        head="softmax", classes=("a", "b"), origin={"weights": "w"},
    )  # fmt: skip
    return replace(written, **changes)


def test_what_is_written_is_loaded(tmp_path):
    written = table(target_scale=2.0, target_offset=0.5, unit="°")
    sequences.write(tmp_path, written)
    assert sequences.splits(tmp_path) == ("random", "groups")
    data = sequences.load(tmp_path)
    assert data.train.rows.tolist() == [100, 101, 102, 103, 106, 107, 108, 109]  # validation stays in its place
    assert data.test.rows.tolist() == [104, 105, 110, 111]
    assert data.validation is None
    assert (data.inputs, data.outputs, data.slices, len(data.test)) == (I, K, T, 4)
    assert (data.target_scale, data.target_offset, data.unit) == (2.0, 0.5, "°")
    assert (data.head, data.classes, data.origin) == ("softmax", ("a", "b"), {"weights": "w"})
    assert torch.equal(data.test.pool, written.pools[""])
    assert np.array_equal(data.test.index, written.index[[4, 5, 10, 11]])
    assert np.array_equal(data.test.targets, written.targets[[4, 5, 10, 11]])
    assert data.digest.keys() == FILES
    apart = sequences.load(tmp_path, "groups", validation="apart")
    sides = [part.rows.tolist() for part in (apart.train, apart.validation, apart.test)]
    assert sides == [[103, 104, 105, 109, 110, 111], [102, 108], [100, 101, 106, 107]]
    assert sequences.read_table(tmp_path)["group"].to_pylist() == written.group


def test_equal_tables_are_equal_bytes_and_old_pools_go(tmp_path):
    pools = {"random": table().pools[""], "groups": table().pools[""] + 1}
    for folder in (tmp_path / "a", tmp_path / "b"):
        sequences.write(folder, table(pools=pools, group=None))
    sequences.write(tmp_path / "c", table(pools=pools))
    sequences.write(tmp_path / "c", table())
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path / name).iterdir()} for name in "abc")
    assert a == b
    assert c.keys() == FILES
    for split in ("random", "groups"):
        assert torch.equal(sequences.load(tmp_path / "a", split).train.pool, pools[split])
    assert sequences.read_table(tmp_path / "a")["group"].null_count == N


@pytest.mark.parametrize("linkable", [True, False])
def test_a_table_of_features_lends_its_vectors(tmp_path, monkeypatch, linkable):
    pool, entry = table().pools[""], tmp_path / "entry"
    save_file({"vectors": pool}, entry, {"about": "x"})
    entry.chmod(0o444)
    (tmp_path / "vectors.safetensors").symlink_to(entry)  # as DVC may leave it
    if not linkable:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    for _ in range(2):
        sequences.write(tmp_path / "s", table(pools={"": tmp_path / "features.parquet"}))
        assert torch.equal(sequences.load(tmp_path / "s").train.pool, pool)
    written = tmp_path / "s" / "pool.safetensors"
    assert not written.is_symlink()
    assert written.samefile(entry) == linkable
    assert entry.stat().st_mode & 0o777 == 0o444
    assert records.sha256_of(written) == records.sha256_of(entry)


@pytest.mark.hostile
def test_every_damage_is_named_with_a_remedy(tmp_path):
    sequences.write(tmp_path, table())
    for file in FILES:
        place = tmp_path / file
        whole = place.read_bytes()
        for cut in (0, len(whole) // 2):
            place.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :])
            named = "" if file == "about.json" else file  # whose digests of others may be what is damaged
            with pytest.raises(ValueError, match=rf"expected .*{named}.*found"):
                sequences.load(tmp_path)
        place.unlink()
        with pytest.raises(FileNotFoundError, match="dvc repro"):
            sequences.load(tmp_path)
        place.write_bytes(whole)
    about = records.read_json(tmp_path / "about.json")
    for key, value in itertools.product(sequences.KINDS, (True, None)):
        records.write_json(tmp_path / "about.json", {**about, key: value})
        with pytest.raises(ValueError, match=f"expected '{key}' in .*about.json"):
            sequences.load(tmp_path)
    records.write_json(tmp_path / "about.json", [])
    with pytest.raises(ValueError, match="'slices'"):
        sequences.splits(tmp_path)


def test_splits_and_pools_are_checked(tmp_path):
    everything = {"all": np.array(["train"] * N)}
    for changes, words in (
        ({"index": np.full((N, T), P)}, f"rows of the {P} slices"),
        ({"splits": everything}, "at least one test sequence"),
    ):
        sequences.write(tmp_path, table(**changes))
        with pytest.raises(ValueError, match=words):
            sequences.load(tmp_path)
    cut_off = {"all": everything["all"].astype("<U3")}
    for wrong in ({"pools": {}}, {"splits": {}}, {"pools": {"random": table().pools[""]}}, {"splits": cut_off}):
        with pytest.raises(ValueError, match="expected sequences with splits"):
            sequences.write(tmp_path, table(**wrong))
    sequences.write(tmp_path, table())
    with pytest.raises(ValueError, match="expected one of the splits"):
        sequences.load(tmp_path, "other")
    about = records.read_json(tmp_path / "about.json")
    for tensors in ({"vectors": torch.zeros(P, I, dtype=torch.float64)}, {"x": torch.zeros(P, I)}):
        save_file(tensors, tmp_path / "pool.safetensors")
        about["files"]["pool.safetensors"] = records.sha256_of(tmp_path / "pool.safetensors")
        records.write_json(tmp_path / "about.json", about)
        with pytest.raises(ValueError, match=r"pool\.safetensors"):
            sequences.load(tmp_path)


def test_a_task_that_is_switched_off_is_passed_on(tmp_path):
    assert not sequences.absent(tmp_path)
    sequences.write_absent(tmp_path)
    assert sequences.absent(tmp_path)
    for read in (sequences.load, sequences.splits, sequences.read_table):
        with pytest.raises(ValueError, match="add it to tasks"):
            read(tmp_path)
    sequences.write(tmp_path, table())
    assert not sequences.absent(tmp_path)
