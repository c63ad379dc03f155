"""UCF-11 from an address, or in any form from the mirror; its archive unpacks into the folder and nowhere else."""

import json
import os
import sys
import zipfile
from itertools import product
from pathlib import Path, PurePosixPath

import pytest
import rarfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import download, paths, records
from pipeline.video import layout
from pipeline.video.acquire import archive, ucf11
from tests.video.samples import rar, zipped

TOP = "UCF11_updated_mpg"
CLIPS = {
    f"{TOP}/basketball/v_shooting_01/v_shooting_01_01.mpg": b"one" * 9000,
    f"{TOP}/basketball/v_shooting_01/v_shooting_01_02.mpg": b"two" * 20_000,
    f"{TOP}/walking/v_walk_dog_07/v_walk_dog_07_01.mpg": b"three",
    f"{TOP}/walking/Annotation/v_walk_dog_07/v_walk_dog_07_01.mpg": b"no clip",
    f"{TOP}/walking/v_walk_dog_07/v_walk_dog_07_01.xgtf": b"<xml/>",
}
EXPECTED = [ucf11.video_at(ucf11.place(name)) for name in list(CLIPS)[:3]]


def pack(folder, kind):
    make = rar if kind == "rar" else zipped
    return make(folder / Path(ucf11.URLS[kind]).name, CLIPS)


def check_content():
    assert layout.load(layout.INDEX) == EXPECTED
    assert [(layout.CLIPS / video.path).read_bytes() for video in EXPECTED] == list(CLIPS.values())[:3]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    (tmp_path / "mirror" / "ucf11").mkdir(parents=True)
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    return tmp_path / "mirror" / "ucf11"


@pytest.mark.parametrize("kind", ["rar", "zip"])
def test_it_is_downloaded_resumed_verified_and_unpacked(run, server, tmp_path, monkeypatch, kind):
    packed = pack(tmp_path, kind)
    server.content = packed.read_bytes()
    server.cut = [len(server.content) // 2]
    monkeypatch.setitem(ucf11.URLS, kind, f"{server.base}/{packed.name}")
    record = run("ucf11", ucf11_from=kind)
    assert server.seen == [None, f"bytes={len(server.content) // 2}-"]
    check_content()
    assert [(video.class_name, video.group) for video in EXPECTED] == [*[("basketball", "01")] * 2, ("walking", "07")]
    assert (record["url"], record["trusted_on_first_use"]) == (f"{server.base}/{packed.name}", True)
    assert "3 of 1597 clips, 9 of 11 classes missing" in record["partial"]
    assert json.loads(paths.DOWNLOAD_LOCK.read_text()) == {record["url"]: record["sha256"]}
    server.content += b"more"
    (paths.CHECKPOINTS / "downloads" / packed.name).unlink()
    with pytest.raises(download.DownloadError, match="expected SHA-256"):
        run("ucf11", ucf11_from=kind)


def test_what_is_no_sound_archive_of_videos_is_not_trusted(run, shelf):
    """First a portal's page, then an archive of something else, then a damaged one: the true one still gets in."""
    sound = pack(shelf, "zip").read_bytes()
    file, at = shelf / Path(ucf11.URLS["zip"]).name, sound.index(b"v_shooting_01_02.mpg") + 30
    other = zipped(file, {"top/readme.txt": b"hello"}).read_bytes()
    damaged = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
    for content, error, message in (
        (b"<html>Please sign in</html>", download.DownloadError, "expected a RAR or ZIP archive"),
        (other, download.DownloadError, "expected an archive of videos"),
        (damaged, archive.DamagedError, "fetch it again"),
    ):
        file.write_bytes(content)
        with pytest.raises(error, match=message):
            run("ucf11", ucf11_from="zip")
        assert not paths.DOWNLOAD_LOCK.exists() or not records.read_json(paths.DOWNLOAD_LOCK)
        assert not paths.raw("video").exists()
    file.write_bytes(sound)
    run("ucf11", ucf11_from="zip")
    check_content()


@pytest.mark.parametrize("kind", ["rar", "zip", "folder"])
def test_in_any_form_it_is_found_in_the_mirror(run, shelf, tmp_path, monkeypatch, kind):
    if kind == "folder":
        zipfile.ZipFile(pack(tmp_path, "zip")).extractall(shelf)
    else:
        pack(shelf, kind)
    record = run("ucf11")
    check_content()
    assert str(tmp_path) not in json.dumps(record)
    monkeypatch.delenv("NEM_MIRROR")
    with pytest.raises(FileNotFoundError, match="NEM_MIRROR"):
        run("ucf11", ucf11_from="folder")


def test_unpacking_goes_on_where_it_was_and_mixes_nothing_in(run, shelf, monkeypatch):
    pack(shelf, "rar")
    stale = paths.CHECKPOINTS / "acquire-video" / "videos" / "diving" / "v_diving_01_01.mpg"
    records.write_bytes(stale, b"of another archive")
    written, write = [], archive._write

    def stopped(stream, target):
        written.append(target.stem)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(stream, target)

    monkeypatch.setattr(archive, "_write", stopped)
    with pytest.raises(KeyboardInterrupt):
        run("ucf11")
    run("ucf11")
    assert written == ["v_shooting_01_01", "v_shooting_01_02", "v_shooting_01_02", "v_walk_dog_07_01"]
    assert not (layout.CLIPS / "diving").exists()


@pytest.mark.realdata
def test_every_name_of_the_set_is_understood(mirror):
    stems = [line.split("\t")[0] for line in (mirror / "ucf11" / "clip_list.tsv").read_text().splitlines()[1:]]
    folders = {prefix: name for name, prefix in ucf11.CLASSES.items()}
    names = [f"{TOP}/{folders[stem[:-6]]}/{stem[:-3]}/{stem}.mpg" for stem in stems]
    videos = layout.check(ucf11.video_at(ucf11.place(name)) for name in names)
    assert len(videos) == ucf11.CLIPS
    assert {(video.class_name, int(video.group)) for video in videos} == set(product(ucf11.CLASSES, range(1, 26)))


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
    (out / "b" / "y.mpg").write_bytes(b"damaged")
    written, original = [], archive._write
    monkeypatch.setattr(archive, "_write", lambda f, t: written.append(t.name) or original(f, t))
    places = archive.unpack(source, out, place)
    assert (written, list(map(str, places))) == (["y.mpg"], ["a/x.mpg", "b/y.mpg", "b/z.mpg"])
    assert UNPACKED.items() < files(out).items()
    data = bytearray(source.read_bytes())
    data[-3000] ^= 0xFF
    source.write_bytes(data)
    with pytest.raises(archive.ArchiveError, match="fetch it again"):
        archive.unpack(source, tmp_path / "new", place)
    assert files(tmp_path / "new") == UNPACKED


@pytest.mark.hostile
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


PROGRAM = f"""#!{sys.executable}
import pathlib, sys
if sys.argv[-1] != "-?":
    with (pathlib.Path(__file__).parent / "calls").open("a") as log: log.write("x")
    # the package hands over either the archive and a name, or a cut-out with that member alone
    packed = next(pathlib.Path(a) for a in sys.argv[1:] if a.endswith(".rar")).read_bytes()
    for name, content in {MEMBERS!r}.items():
        if name == sys.argv[-1] or (sys.argv[-1] not in {list(MEMBERS)!r} and name.encode() in packed):
            sys.stdout.buffer.write(content)
"""


@pytest.mark.parametrize("solid", [False, True])
def test_compressed_rar_goes_through_a_program(tmp_path, monkeypatch, solid):
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
        assert len((tmp_path / "calls").read_text()) == 2


@pytest.mark.hostile
@given(name=st.text(st.sampled_from("ab./\\:"), min_size=1, max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "root"
    if not archive._escapes(name):
        landed = os.path.normpath(root / name.replace("\\", "/"))
        assert landed == str(root) or landed.startswith(str(root) + os.sep)
