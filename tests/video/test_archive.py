"""Archives from elsewhere unpack into the folder and nowhere else, once, with sums checked."""

import io
import os
import stat
import sys
import zipfile
from pathlib import PurePosixPath

import pytest
import rarfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.video import archive
from tests.video import samples

pytestmark = pytest.mark.hostile

MEMBERS = {"top/a/x.mpg": b"x" * 5000, "top/b/y.mpg": bytes(range(256)) * 30, "top/note.txt": b"words"}


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def place(name):
    path = PurePosixPath(name)
    return PurePosixPath(*path.parts[1:]) if path.suffix == ".mpg" else None


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("make", [zipped, samples.rar])
def test_chosen_members_arrive_at_their_places(tmp_path, make):
    source = make(tmp_path / "anything.bin", MEMBERS)
    assert archive.unpack(source, tmp_path / "out", place) == [PurePosixPath("a/x.mpg"), PurePosixPath("b/y.mpg")]
    assert files(tmp_path / "out") == {"a/x.mpg": MEMBERS["top/a/x.mpg"], "b/y.mpg": MEMBERS["top/b/y.mpg"]}


@pytest.mark.parametrize("make", [zipped, samples.rar])
def test_unpacking_resumes_and_repairs(tmp_path, make, monkeypatch):
    source = make(tmp_path / "a", MEMBERS)
    archive.unpack(source, tmp_path / "out", place)
    (tmp_path / "out" / "b" / "y.mpg").write_bytes(b"damaged")
    written, original = [], archive._write
    monkeypatch.setattr(archive, "_write", lambda s, m, f, t: written.append(m.name) or original(s, m, f, t))
    archive.unpack(source, tmp_path / "out", place)
    assert written == ["top/b/y.mpg"]
    assert files(tmp_path / "out")["b/y.mpg"] == MEMBERS["top/b/y.mpg"]


@pytest.mark.parametrize("make", [zipped, samples.rar])
@pytest.mark.parametrize(
    "name", ["../evil.mpg", "a/../../evil.mpg", "/evil.mpg", "C:/evil.mpg", "a\\..\\..\\evil.mpg", "top/a/../x.mpg"]
)
def test_paths_that_lead_out_are_refused_before_anything_is_written(tmp_path, make, name):
    source = make(tmp_path / "a", {"top/a/good.mpg": b"good", name: b"evil"})
    with pytest.raises(archive.ArchiveError, match="expected paths inside"):
        archive.unpack(source, tmp_path / "out", place)
    assert set(files(tmp_path)) == {"a"}


def test_links_are_refused(tmp_path):
    info = zipfile.ZipInfo("top/a/link.mpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "z", "w") as file:
        file.writestr(info, "/etc/hostname")
    samples.rar(tmp_path / "r", {"top/a/link.mpg": "/etc/hostname"})
    for name in "zr":
        with pytest.raises(archive.ArchiveError, match="expected no links"):
            archive.unpack(tmp_path / name, tmp_path / "out", place)
    assert not (tmp_path / "out").exists()


def test_bombs_are_refused(tmp_path):
    bomb = zipped(tmp_path / "bomb", {"top/a/zeros.mpg": b"\0" * (8 << 20)})
    with pytest.raises(archive.ArchiveError, match="bytes that unpack to 8388608"):
        archive.unpack(bomb, tmp_path / "out", place)
    many = zipped(tmp_path / "many", {f"top/a/{k}.mpg": b"" for k in range(30)})
    with pytest.raises(archive.ArchiveError, match="at most 29 files"):
        archive.unpack(many, tmp_path / "out", place, archive.Limits(members=29))
    with pytest.raises(archive.ArchiveError, match="at most 5000 bytes"):
        archive.unpack(samples.rar(tmp_path / "big", MEMBERS), tmp_path / "out", place, archive.Limits(total=5000))


def test_a_member_that_holds_more_than_it_claims_stops_there():
    member = archive._Member("m", 10, 10, None, False, False, None)
    with pytest.raises(archive.ArchiveError, match="expected 10 bytes"):
        archive._copy(io.BytesIO(b"x" * 1000), io.BytesIO(), member)


def test_two_members_for_one_place_are_refused(tmp_path):
    source = zipped(tmp_path / "a", {"one/a/x.mpg": b"1", "two/a/x.mpg": b"2"})
    with pytest.raises(archive.ArchiveError, match=r"expected one file for a/x\.mpg"):
        archive.unpack(source, tmp_path / "out", place)


@pytest.mark.parametrize("make", [zipped, samples.rar])
def test_damage_is_found_and_leaves_no_file(tmp_path, make):
    noise = {"top/a/x.mpg": os.urandom(5000)}
    source = make(tmp_path / "a", noise)
    data = bytearray(source.read_bytes())
    data[len(data) // 2] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(archive.ArchiveError, match="fetch it again"):
        archive.unpack(source, tmp_path / "out", place)
    assert files(tmp_path / "out") == {}


def test_what_is_no_archive_says_so(tmp_path):
    (tmp_path / "page.rar").write_text("<html>moved</html>")
    with pytest.raises(archive.ArchiveError, match="neither"):
        archive.unpack(tmp_path / "page.rar", tmp_path / "out", place)
    with pytest.raises(FileNotFoundError):
        archive.unpack(tmp_path / "absent.rar", tmp_path / "out", place)


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A stand-in for ``unrar`` that prints the members' true content, one file or all of them; counts its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in MEMBERS.items():
        (folder / name.replace("/", "_")).write_bytes(content)
    script = folder / "unrar"
    script.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\n"
        f"here = pathlib.Path({str(folder)!r})\n"
        "if sys.argv[-1] == '-?': sys.exit(0)\n"
        "with (here / 'calls').open('a') as log: log.write('x')\n"
        f"names = {list(MEMBERS)!r}\n"
        # the package hands over either the archive and a name, or a cut-out with that member alone
        "packed = next(pathlib.Path(a) for a in sys.argv[1:] if a.endswith('.rar')).read_bytes()\n"
        "wanted = [n for n in names if n == sys.argv[-1]] or [n for n in names if n.encode() in packed]\n"
        "for n in wanted: sys.stdout.buffer.write((here / n.replace('/', '_')).read_bytes())\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    yield folder
    rarfile.CURRENT_SETUP = None


@pytest.mark.parametrize(("solid", "calls"), [(False, 2), (True, 1)])
def test_compressed_rar_goes_through_a_program_and_solid_ones_in_one_pass(tmp_path, program, solid, calls):
    source = samples.rar(tmp_path / "a.rar", MEMBERS, method=0x33, solid=solid, packed=b"?" * 400)
    archive.unpack(source, tmp_path / "out", place)
    assert files(tmp_path / "out") == {"a/x.mpg": MEMBERS["top/a/x.mpg"], "b/y.mpg": MEMBERS["top/b/y.mpg"]}
    assert len((program / "calls").read_text()) == calls
    archive.unpack(source, tmp_path / "out", place)
    assert len((program / "calls").read_text()) == calls


@pytest.mark.parametrize("solid", [False, True])
def test_without_such_a_program_the_message_says_what_to_install(tmp_path, monkeypatch, solid):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    source = samples.rar(tmp_path / "a.rar", MEMBERS, method=0x33, solid=solid, packed=b"?" * 400)
    with pytest.raises(archive.ArchiveError, match="unrar, unar, bsdtar or 7z"):
        archive.unpack(source, tmp_path / "out", place)


@given(name=st.text(st.sampled_from("ab./\\:"), min_size=1, max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "root"
    if not archive._escapes(name):
        landed = os.path.normpath(root / name.replace("\\", "/"))
        assert landed == str(root) or landed.startswith(str(root) + os.sep)
