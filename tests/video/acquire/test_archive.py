"""Archives from elsewhere unpack into the folder and nowhere else, once, with sums checked."""

import io
import os
import sys
import zlib
from pathlib import PurePosixPath

import pytest
import rarfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.video.acquire import archive
from tests.video.samples import rar, zipped

pytestmark = pytest.mark.hostile

MEMBERS = {"top/a/x.mpg": b"x" * 5000, "top/b/y.mpg": bytes(range(256)) * 30, "top/note.txt": b"words"}
UNPACKED = {"a/x.mpg": MEMBERS["top/a/x.mpg"], "b/y.mpg": MEMBERS["top/b/y.mpg"]}
OUTSIDE = ("../evil.mpg", "a/../../evil.mpg", "/evil.mpg", "C:/evil.mpg", "a\\..\\..\\evil.mpg", "top/a/../x.mpg")


def place(name):
    path = PurePosixPath(name)
    return PurePosixPath(*path.parts[1:]) if path.suffix == ".mpg" else None


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("make", [zipped, rar])
def test_chosen_members_arrive_at_their_places_once_and_damage_is_found(tmp_path, make, monkeypatch):
    source, out = make(tmp_path / "anything.bin", {**MEMBERS, "top/b/z.mpg": os.urandom(9999)}), tmp_path / "out"
    archive.unpack(source, out, place)
    assert UNPACKED.items() < files(out).items()
    (out / "b" / "y.mpg").write_bytes(b"damaged")
    written, original = [], archive._write
    monkeypatch.setattr(archive, "_write", lambda m, f, t: written.append(m.filename) or original(m, f, t))
    places = archive.unpack(source, out, place)
    assert (written, list(map(str, places))) == (["top/b/y.mpg"], ["a/x.mpg", "b/y.mpg", "b/z.mpg"])
    assert UNPACKED.items() < files(out).items()
    data = bytearray(source.read_bytes())
    data[-3000] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(archive.ArchiveError, match="fetch it again"):
        archive.unpack(source, tmp_path / "new", place)
    assert files(tmp_path / "new") == UNPACKED


@pytest.mark.parametrize(
    ("members", "message"),
    [
        *(({"top/a/good.mpg": b"good", name: b"evil"}, "paths inside") for name in OUTSIDE),
        ({"top/a/link.mpg": "/etc/hostname"}, "no links"),
        ({"one/a/x.mpg": b"1", "two/a/x.mpg": b"2"}, r"one file for a/x\.mpg"),
        ({f"top/a/{k}.mpg": b"" for k in range(30)}, "at most 29 files"),
        ({"top/a/x.mpg": os.urandom(6000)}, "at most 5000 bytes"),
    ],
)
@pytest.mark.parametrize("make", [zipped, rar])
def test_what_could_do_harm_is_refused_before_anything_is_written(tmp_path, monkeypatch, make, members, message):
    monkeypatch.setattr(archive, "MEMBERS", 29)
    monkeypatch.setattr(archive, "TOTAL", 5000)
    with pytest.raises(archive.ArchiveError, match=f"expected {message}"):
        archive.unpack(make(tmp_path / "a", members), tmp_path / "out", place)
    assert set(files(tmp_path)) == {"a"}
    bomb = zipped(tmp_path / "bomb", {"top/a/zeros.mpg": b"\0" * (2 << 20)})
    with pytest.raises(archive.ArchiveError, match="bytes that unpack to 2097152"):
        archive.unpack(bomb, tmp_path / "out", place)


def test_no_more_than_a_member_claims_is_read():
    stream, copy = io.BytesIO(b"x" * 1000), io.BytesIO()
    assert archive._sum_of(stream, 10, copy) == zlib.crc32(b"x" * 10)
    assert copy.getvalue() == b"x" * 10
    assert archive._sum_of(stream, 1000, copy) is None


PROGRAM = f"""#!{sys.executable}
import pathlib, sys
if sys.argv[-1] != "-?":
    with (pathlib.Path(__file__).parent / "calls").open("a") as log: log.write("x")
    members = {MEMBERS!r}
    # the package hands over either the archive and a name, or a cut-out with that member alone
    packed = next(pathlib.Path(a) for a in sys.argv[1:] if a.endswith(".rar")).read_bytes()
    wanted = [n for n in members if n == sys.argv[-1]] or [n for n in members if n.encode() in packed]
    for n in wanted: sys.stdout.buffer.write(members[n])
"""


@pytest.mark.parametrize(("solid", "calls"), [(False, 2), (True, 1)])
def test_compressed_rar_goes_through_a_program_and_solid_ones_in_one_pass(tmp_path, monkeypatch, solid, calls):
    source = rar(tmp_path / "a.rar", MEMBERS, solid=solid, packed=b"?" * 400)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    with pytest.raises(archive.ArchiveError, match="unrar, unar, bsdtar or 7z"):
        archive.unpack(source, tmp_path / "out", place)
    (tmp_path / "unrar").write_text(PROGRAM)
    (tmp_path / "unrar").chmod(0o755)
    for _ in range(2):  # the second finds all there
        archive.unpack(source, tmp_path / "out", place)
        assert files(tmp_path / "out") == UNPACKED
        assert len((tmp_path / "calls").read_text()) == calls


@given(name=st.text(st.sampled_from("ab./\\:"), min_size=1, max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "root"
    if not archive._escapes(name):
        landed = os.path.normpath(root / name.replace("\\", "/"))
        assert landed == str(root) or landed.startswith(str(root) + os.sep)
