"""Files appear whole or not at all, equal content is equal bytes, damage is named; kept work has a key; sequences."""

import hashlib
import itertools
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from pipeline.common import command, kept, paths, records, seeds, sequences
from tests.conftest import refused


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    records.write_text(file, "old")
    with pytest.raises(RuntimeError), records.atomic_path(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan_and_names_damaged_files(tmp_path):
    refused(ValueError, "JSON", records.write_json, tmp_path / "a", {"x": float("nan")})
    (tmp_path / "b").write_text("{")
    refused(ValueError, "run the stage that writes it again", records.read_json, tmp_path / "b")


@pytest.mark.hostile
def test_equal_tables_are_equal_bytes_and_what_is_none_is_named(tmp_path):
    table, file = pa.table({"a": list(range(200_000)), "b": ["x"] * 200_000}), tmp_path / "t.parquet"
    for name in ("one", "t.parquet"):
        records.write_table(tmp_path / name, table, {"k": "v"})
    whole = file.read_bytes()
    assert whole == (tmp_path / "one").read_bytes()
    for name, words in (("a", "'a' of type int32"), ("c", "no such column")):
        with pytest.raises(ValueError, match=words):
            records.read_table(file, pa.schema([(name, pa.int32())]))
    for damaged in (whole[:-20], whole[:-10] + bytes([whole[-10] ^ 0xFF]) + whole[-9:], b"", b"a,b\n1,2\n"):
        file.write_bytes(damaged)
        refused(ValueError, r"t\.parquet", records.read_table, file)
    file.unlink()
    refused(FileNotFoundError, "dvc repro", records.read_table, file)


def test_seeds_depend_on_names_alone():
    # Numbers of every published result come from here.
    assert seeds.seed_of(1, "fx", "lstm", 0, "init") == 5_868_107_341_041_966_836
    names = ((1, "a", "bc"), (1, "ab", "c"), (1, "a", 1), (1, "a", "1"), (2, "a", 1))
    assert len({seeds.seed_of(*name) for name in names}) == 5


def test_commands_turn_expected_faults_into_messages(capsys):
    def fault():
        raise FileNotFoundError("expected a, found b")

    def defect():
        raise KeyError("x")

    assert command.stage("windows")(lambda: None)() == 0
    assert command.stage("windows")(fault)() == 1
    assert capsys.readouterr().err == "windows: expected a, found b\n"
    with pytest.raises(KeyError):
        command.stage("windows")(defect)()


def test_an_entry_is_there_until_it_is_forgotten(project):
    store = kept.Kept("work", {"a": 1})
    assert store.get("x") is None
    for content in (b"one", b"two"):
        store.put("x", content)
        assert kept.Kept("work", {"a": 1}).get("x") == content
    store.put("names/may be: anything\n", b"")
    assert store.get("names/may be: anything\n") == b""
    assert kept.Kept("work", {"a": 2}).get("x") is kept.Kept("other", {"a": 1}).get("x") is None
    for _ in range(2):
        store.remove("x")
        assert not store.has("x")


def test_an_entry_with_any_flipped_bit_or_another_name_is_not_there(project):
    store = kept.Kept("work", 1)
    store.put("x", b"content")
    (file,) = store.folder.iterdir()
    whole = file.read_bytes()
    store.put("y", b"other")
    (other,) = set(store.folder.iterdir()) - {file}
    damaged = [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in range(len(whole))]
    for content in (*damaged, b"", whole[:5], whole[:-1], other.read_bytes()):
        file.write_bytes(content)
        assert store.get("x") is None
    file.write_bytes(whole)
    assert store.get("x") == b"content"


def test_what_is_not_wanted_any_more_is_forgotten(project):
    old, new, elsewhere = stores = kept.Kept("a/b", 1), kept.Kept("a/b", 2), kept.Kept("a/c", 1)
    for store, name in itertools.product(stores, "xy"):
        store.put(name, b"content")
    kept.forget("a/b")
    assert (new.has("x"), old.has("y"), elsewhere.has("x")) == (False, False, True)
    assert [place.name for place in (paths.CHECKPOINTS / "a").iterdir()] == ["c"]


@pytest.fixture
def package(project, monkeypatch):
    """A package whose sources a test may change; returns what writes it and gives its digest."""
    monkeypatch.syspath_prepend(str(project))
    (project / "sample" / "part").mkdir(parents=True)
    (project / "sample" / "part" / "__init__.py").write_text("")

    def digest(source, names=("sample",)):
        (project / "sample" / "__init__.py").write_text("")
        (project / "sample" / "part" / "code.py").write_text(source)
        sys.modules.pop("sample", None)
        return kept.code_digest(names)

    return digest


CODE = '''"""What it does."""
LIMIT = 3
"""Why it is three."""


def work(x):
    """Work."""
    # so it is
    return x + LIMIT
'''


def test_documentation_voids_nothing_and_code_does(package):
    first = package(CODE)
    reworded = CODE.replace("What it does", "Something else").replace("# so it is", "# it is so").replace("Why", "How")
    assert package(reworded.replace("Work.", "Work hard.")) == first
    assert package(CODE.replace('    """Work."""\n', "").replace("\n\n\n", "\n\n\n\n")) == first
    kept.Kept("work", 1, ["sample"]).put("x", b"x")
    for changed in (CODE.replace("= 3", "= 4"), CODE.replace("x + LIMIT", "x - LIMIT"), CODE + "\nMORE = 1\n"):
        assert package(changed) != first
        assert not kept.Kept("work", 1, ["sample"]).has("x")
    assert package(CODE, ("sample.part",)) != first
    for name, same in (("sample.part.code", False), ("pipeline.common.seeds", True)):
        assert (package(CODE, (name,)) == package(CODE.replace("= 3", "= 4"), (name,))) == same


def test_packed_tensors_come_back():
    tensors = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor(7), "empty": torch.zeros(0, 2)}
    back = kept.unpack(kept.pack({"tensors": tensors, "name": ("ö", None)}))
    assert back["name"] == ("ö", None)
    torch.testing.assert_close(back["tensors"], tensors, rtol=0, atol=0)


N, T, K, P, I = 12, 3, 2, 20, 4
FILES = {"about.json", "sequences.parquet", "pool.safetensors"}


def table(**changes):
    generator = np.random.default_rng(1)
    first = np.array((["train"] * 3 + ["validation"] + ["test"] * 2) * 2)
    written = sequences.Table(
        rows=np.arange(100, 100 + N), index=generator.integers(0, P, (N, T)),
        targets=np.eye(K, dtype=np.float32)[np.arange(N) % K], group=[f"g{n % 3}" for n in range(N)],
        splits={"random": first, "groups": first[::-1]},
        pools={"": generator.standard_normal((P, I)).astype(np.float32)},
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
    assert torch.equal(data.test.pool, torch.from_numpy(written.pools[""]))
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
        assert torch.equal(sequences.load(tmp_path / "a", split).train.pool, torch.from_numpy(pools[split]))
    assert sequences.read_table(tmp_path / "a")["group"].null_count == N


@pytest.mark.hostile
def test_every_damage_is_named_with_a_remedy(tmp_path):
    sequences.write(tmp_path, table())
    for file in FILES:
        place = tmp_path / file
        whole = place.read_bytes()
        for cut in (0, len(whole) // 2):
            place.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :])
            named = "" if file == "about.json" else file  # whose digests of others may be what is damaged
            refused(ValueError, rf"expected .*{named}.*found", sequences.load, tmp_path)
        place.unlink()
        refused(FileNotFoundError, "dvc repro", sequences.load, tmp_path)
        place.write_bytes(whole)
    about = records.read_json(tmp_path / "about.json")
    for key, value in itertools.product(sequences.KINDS, (True, None)):
        records.write_json(tmp_path / "about.json", {**about, key: value})
        refused(ValueError, f"'{key}' in .*about.json", sequences.load, tmp_path)
    records.write_json(tmp_path / "about.json", [])
    refused(ValueError, "'slices'", sequences.splits, tmp_path)


def test_splits_and_pools_are_checked(tmp_path):
    everything = {"all": np.array(["train"] * N)}
    for changes, words in (
        ({"index": np.full((N, T), P)}, f"rows of the {P} slices"),
        ({"splits": everything}, "at least one test sequence"),
    ):
        sequences.write(tmp_path, table(**changes))
        refused(ValueError, words, sequences.load, tmp_path)
    cut_off = {"all": everything["all"].astype("<U3")}
    for wrong in ({"pools": {}}, {"splits": {}}, {"pools": {"random": table().pools[""]}}, {"splits": cut_off}):
        refused(ValueError, "expected sequences with splits", sequences.write, tmp_path, table(**wrong))
    sequences.write(tmp_path, table())
    refused(ValueError, "expected one of the splits", sequences.load, tmp_path, "other")
    about = records.read_json(tmp_path / "about.json")
    for tensors in ({"vectors": torch.zeros(P, I, dtype=torch.float64)}, {"x": torch.zeros(P, I)}):
        save_file(tensors, tmp_path / "pool.safetensors")
        about["files"]["pool.safetensors"] = records.sha256_of(tmp_path / "pool.safetensors")
        records.write_json(tmp_path / "about.json", about)
        refused(ValueError, r"pool\.safetensors", sequences.load, tmp_path)


def test_the_digest_of_a_large_file_is_that_of_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PART", part := 1000)
    file, content = tmp_path / "x", bytearray(np.random.default_rng(1).bytes(3 * part))
    for size in (0, 1, part, part + 1, 2 * part, 3 * part):
        file.write_bytes(content[:size])
        parts = b"".join(hashlib.sha256(content[k : min(k + part, size)]).digest() for k in range(0, size, part))
        right = hashlib.sha256(parts).hexdigest() if size > part else records.sha256_of(file)
        assert records.digest_of(file) == right
    content[part] ^= 1
    file.write_bytes(content)
    assert records.digest_of(file) != right
