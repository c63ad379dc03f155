"""Kept work is found again under the same key and code, and never when it is damaged or of another one."""

import itertools
import sys

import pytest
import torch

from pipeline.common import kept, paths


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_entry_is_there_until_it_is_forgotten():
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


def test_an_entry_with_any_flipped_bit_or_another_name_is_not_there():
    store = kept.Kept("work", 1)
    store.put("x", b"content")
    (file,) = store.folder.iterdir()
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert store.get("x") is None
    for cut in (0, 5, len(whole) - 1):
        file.write_bytes(whole[:cut])
        assert store.get("x") is None
    store.put("y", b"other")
    other = next(place for place in store.folder.iterdir() if place != file)
    file.write_bytes(other.read_bytes())
    assert store.get("x") is None
    file.write_bytes(whole)
    assert store.get("x") == b"content"


def test_what_is_not_wanted_any_more_is_forgotten():
    old, new, elsewhere = stores = kept.Kept("a/b", 1), kept.Kept("a/b", 2), kept.Kept("a/c", 1)
    for store, name in itertools.product(stores, "xy"):
        store.put(name, b"content")
    new.retain(["y", "z"])
    assert (new.has("x"), new.has("y"), old.has("y"), elsewhere.has("x")) == (False, True, False, True)
    kept.forget("a/b")
    assert not new.has("y")
    assert [place.name for place in (paths.CHECKPOINTS / "a").iterdir()] == ["c"]


@pytest.fixture
def package(folder, monkeypatch):
    """A package whose sources a test may change; returns what writes it and gives its digest."""
    monkeypatch.syspath_prepend(str(folder))
    (folder / "sample" / "part").mkdir(parents=True)
    (folder / "sample" / "part" / "__init__.py").write_text("")

    def digest(source, names=("sample",)):
        (folder / "sample" / "__init__.py").write_text("")
        (folder / "sample" / "part" / "code.py").write_text(source)
        sys.modules.pop("sample", None)
        return kept.code_digest(names)

    return digest


CODE = '''"""What it does."""
LIMIT = 3
"""Why it is three."""


class Thing:
    """A thing."""

    def work(self, x):
        """Work."""
        # so it is
        return x + LIMIT
'''


def test_documentation_voids_nothing_and_code_does(package):
    first = package(CODE)
    reworded = CODE.replace("What it does", "Something else").replace("# so it is", "# it is so").replace("Why", "How")
    assert package(reworded.replace("A thing", "One thing").replace("Work.", "Work hard.")) == first
    assert package(CODE.replace('        """Work."""\n', "").replace("\n\n\n", "\n\n\n\n")) == first
    for changed in (CODE.replace("= 3", "= 4"), CODE.replace("x + LIMIT", "x - LIMIT"), CODE + "\nMORE = 1\n"):
        assert package(changed) != first
    assert package(CODE, ("sample.part",)) != first
    for name, same in (("sample.part.code", False), ("pipeline.common.seeds", True)):
        assert (package(CODE, (name,)) == package(CODE.replace("= 3", "= 4"), (name,))) == same
    with pytest.raises(ModuleNotFoundError, match=r"sample\.none"):
        package(CODE, ("sample.none",))


def test_a_key_comprises_code(package, folder):
    package(CODE)
    kept.Kept("work", 1, ["sample"]).put("x", b"x")
    package(CODE.replace("A thing", "Some thing"))
    assert kept.Kept("work", 1, ["sample"]).has("x")
    package(CODE.replace("= 3", "= 5"))
    assert not kept.Kept("work", 1, ["sample"]).has("x")


def test_packed_tensors_come_back_and_equal_ones_are_equal_bytes():
    tensors = {"b": torch.arange(6.0).view(2, 3).t(), "a": torch.tensor(7), "empty": torch.zeros(0, 2)}
    about = {"name": "ö", "numbers": [1, 2.5, None]}
    content = kept.pack(tensors, about)
    assert content == kept.pack(dict(reversed(tensors.items())), dict(reversed(about.items())))
    back, described = kept.unpack(content)
    assert described == about
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor)
        assert back[name].dtype == tensor.dtype
