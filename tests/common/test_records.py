"""Files appear whole or not at all; equal content is equal bytes; seeds depend on names alone."""

import pyarrow as pa
import pytest
import torch

from pipeline.common import command, paths, records, seeds


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
    with pytest.raises(ValueError, match="run the stage that writes it again"):
        records.read_json(tmp_path / "b")


def test_equal_tables_are_equal_bytes(tmp_path):
    table = pa.table({"a": list(range(200_000)), "b": ["x"] * 200_000})
    for name in ("one", "two"):
        records.write_table(tmp_path / name, table, {"k": "v"})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert records.sha256_of(tmp_path / "one") == records.sha256_of(tmp_path / "two")


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-20], lambda b: b[:-10] + bytes([b[-10] ^ 0xFF]) + b[-9:], lambda b: b"", lambda b: b"a,b\n1,2\n"],
    ids=["truncate", "flip", "empty", "text"],
)
def test_damaged_tables_are_named(tmp_path, damage):
    file = tmp_path / "t.parquet"
    records.write_table(file, pa.table({"a": [1.0] * 5000}))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=r"t\.parquet"):
        records.read_table(file)


def test_schemas_are_checked(tmp_path):
    file = tmp_path / "t.parquet"
    records.write_table(file, pa.table({"a": [1.0]}))
    for name, words in (("a", "'a' of type int32"), ("b", "no such column")):
        with pytest.raises(ValueError, match=words):
            records.read_table(file, pa.schema([(name, pa.int32())]))
    with pytest.raises(FileNotFoundError, match="dvc repro"):
        records.read_table(tmp_path / "none")


def test_seeds_depend_on_names_alone():
    # Numbers of every published result come from here.
    assert seeds.seed_of(1, "fx", "lstm", 0, "init") == 5_868_107_341_041_966_836
    names = ((1, "a", "bc"), (1, "ab", "c"), (1, "a", 1), (1, "a", "1"), (2, "a", 1))
    assert len({seeds.seed_of(*name) for name in names}) == 5


def test_generators_are_fresh_and_repeatable():
    a, b = (torch.randn(5, generator=seeds.torch_generator(1, "x")) for _ in range(2))
    assert torch.equal(a, b)
    a, b, c = (seeds.numpy_generator(1, name).random(3) for name in "xxy")
    assert (a == b).all()
    assert (a != c).all()


def test_commands_turn_expected_faults_into_messages(capsys):
    def fault():
        raise FileNotFoundError("expected a, found b")

    def defect():
        raise KeyError("x")

    assert command.run("windows", lambda: None) == 0
    assert command.run("windows", fault) == 1
    assert capsys.readouterr().err == "windows: expected a, found b\n"
    with pytest.raises(KeyError):
        command.run("windows", defect)


def test_further_splits_have_folders_and_names_of_their_own():
    assert paths.run_folder("a", "gru") == paths.RUNS / "a" / "gru"
    assert paths.run_folder("a", "gru", "groups") == paths.RUNS / "a" / "gru" / "groups"
    assert (paths.run_name("a"), paths.run_name("a", "groups")) == ("a", "a_groups")


def test_a_mirror_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.MIRROR_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match=paths.MIRROR_VARIABLE):
        paths.mirror()
    monkeypatch.setenv(paths.MIRROR_VARIABLE, str(tmp_path))
    assert paths.mirror() == tmp_path
