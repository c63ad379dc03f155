"""Files appear whole or not at all; equal content is equal bytes; seeds depend on names alone."""

import subprocess
import sys

import pyarrow as pa
import pytest

from pipeline import records, seeds


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    records.write_text(file, "old")
    with pytest.raises(RuntimeError), records.atomic_path(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.txt"]


def test_json_refuses_nan_and_names_damaged_files(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        records.write_json(tmp_path / "a", {"x": float("nan")})
    (tmp_path / "b").write_text("{")
    with pytest.raises(ValueError, match="delete the file"):
        records.read_json(tmp_path / "b")


def test_equal_tables_are_equal_bytes(tmp_path):
    table = pa.table({"a": list(range(200_000)), "b": ["x"] * 200_000})
    for name in ("one", "two"):
        records.write_table(tmp_path / name, table, {"k": "v"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert records.sha256_of(tmp_path / "one") == records.sha256_of(tmp_path / "two")


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_damaged_tables_are_named(tmp_path, damage):
    file = tmp_path / "t.parquet"
    records.write_table(file, pa.table({"a": [1.0] * 5000}))
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        content = content[:-20]
    elif damage == "flip":
        content[-10] ^= 0xFF
    elif damage == "empty":
        content = bytearray()
    else:
        content = bytearray(b"a,b\n1,2\n")
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"t\.parquet"):
        records.read_table(file)


def test_schemas_are_checked(tmp_path):
    file = tmp_path / "t.parquet"
    records.write_table(file, pa.table({"a": [1.0]}))
    with pytest.raises(ValueError, match="'a' of type int32"):
        records.read_table(file, pa.schema([("a", pa.int32())]))
    with pytest.raises(ValueError, match="no such column"):
        records.read_table(file, pa.schema([("b", pa.int32())]))
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        records.read_table(tmp_path / "none")


def test_seeds_depend_on_names_alone():
    assert seeds.seed_of(1, "fx", 3) == seeds.seed_of(1, "fx", 3)
    different = {
        seeds.seed_of(*name) for name in ((1, "a", "bc"), (1, "ab", "c"), (1, "a", 1), (1, "a", "1"), (2, "a", 1))
    }
    assert len(different) == 5
    code = "from pipeline import seeds; print(seeds.seed_of(1, 'fx', 3))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": h, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for h in ("0", "1")
    }
    assert found == {f"{seeds.seed_of(1, 'fx', 3)}\n"}


def test_generators_are_fresh_and_repeatable():
    import torch

    a, b = seeds.torch_generator(1, "x"), seeds.torch_generator(1, "x")
    assert torch.equal(torch.randn(5, generator=a), torch.randn(5, generator=b))
    assert (seeds.numpy_generator(1, "x").random(3) == seeds.numpy_generator(1, "x").random(3)).all()
    assert (seeds.numpy_generator(1, "x").random(3) != seeds.numpy_generator(1, "y").random(3)).all()
