"""Videos of UCF-11, from folders, and drawn: archives unpack into the folder alone; what looks wrong is said."""

import itertools
import json
import os
import sys
import zipfile
from itertools import product
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import rarfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import download, paths, records
from pipeline.video import layout
from pipeline.video.acquire import archive, synthetic, ucf11
from pipeline.video.acquire.synthetic import Clip
from pipeline.video.frames import codec
from pipeline.video.layout import LayoutError
from tests.conftest import refused
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
    refused(download.DownloadError, "expected SHA-256", run, "ucf11", ucf11_from=kind)


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
        refused(error, message, run, "ucf11", ucf11_from="zip")
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
    refused(FileNotFoundError, "NEM_MIRROR", run, "ucf11", ucf11_from="folder")


def test_unpacking_goes_on_where_it_was_and_mixes_nothing_in(run, shelf, monkeypatch):
    pack(shelf, "rar")
    stale = paths.CHECKPOINTS / "acquire-video" / "videos" / "diving" / "v_diving_01_01.mpg"
    records.write_bytes(stale, b"of another archive")
    written, write = [], archive._write

    def stopped(member, stream, target):
        written.append(target.stem)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(member, stream, target)

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
    monkeypatch.setattr(archive, "_write", lambda m, f, t: written.append(m.filename) or original(m, f, t))
    places = archive.unpack(source, out, place)
    assert (written, list(map(str, places))) == (["top/b/y.mpg"], ["a/x.mpg", "b/y.mpg", "b/z.mpg"])
    assert UNPACKED.items() < files(out).items()
    data = bytearray(source.read_bytes())
    data[-3000] ^= 0xFF
    source.write_bytes(data)
    refused(archive.ArchiveError, "fetch it again", archive.unpack, source, tmp_path / "new", place)
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
    refused(archive.ArchiveError, "bytes that unpack to 2097152", archive.unpack, bomb, tmp_path / "out", place)


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


@pytest.mark.parametrize(("solid", "calls"), [(False, 2), (True, 1)])
def test_compressed_rar_goes_through_a_program_and_solid_ones_in_one_pass(tmp_path, monkeypatch, solid, calls):
    source = rar(tmp_path / "a.rar", MEMBERS, solid=solid, packed=b"?" * 400)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rarfile, "CURRENT_SETUP", None)
    refused(archive.ArchiveError, "unrar, unar, bsdtar or 7z", archive.unpack, source, tmp_path / "out", place)
    (tmp_path / "unrar").write_text(PROGRAM)
    (tmp_path / "unrar").chmod(0o755)
    for _ in range(2):  # the second finds all there
        archive.unpack(source, tmp_path / "out", place)
        assert files(tmp_path / "out") == UNPACKED
        assert len((tmp_path / "calls").read_text()) == calls


@pytest.mark.hostile
@given(name=st.text(st.sampled_from("ab./\\:"), min_size=1, max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    root = tmp_path_factory.getbasetemp() / "root"
    if not archive._escapes(name):
        landed = os.path.normpath(root / name.replace("\\", "/"))
        assert landed == str(root) or landed.startswith(str(root) + os.sep)


UCF = ["a/v_g01_c01.mp4", "a/v_g02_c01.mp4", "b/v_g01_c01.mp4", "b/v_g01_c02.mp4"]
NAMED = ["run/anna-1.mp4", "run/ben-1.mp4", "jump/anna-1.mp4", "jump/anna-2.mp4"]


@pytest.fixture
def mine(tmp_path, run):
    """Acquire from a folder with these files, each of which holds its own name unless its content is given."""

    def acquire(*names, content=None, **settings):
        (tmp_path / "mine").mkdir(exist_ok=True)
        for name in names:
            records.write_bytes(tmp_path / "mine" / name, (content or {}).get(name, name.encode()))
        return run("folder", folder=str(tmp_path / "mine"), **settings)

    return acquire


def listed():
    return [(video.path, video.class_name, video.group) for video in layout.load(layout.INDEX)]


def test_both_layouts(mine):
    record = mine("run/anna/one.mp4", "run/ben/two.MOV", "jump/v_Jump_g03_c01.avi", "jump/x_12_4.mp4", "run/notes.txt",
                  "run/.hidden_1.mp4", "jump/x_12_5.mp4")  # fmt: skip
    paths, classes, groups = zip(*listed(), strict=True)
    wanted = "jump/v_Jump_g03_c01.avi jump/x_12_4.mp4 jump/x_12_5.mp4 run/anna/one.mp4 run/ben/two.MOV"
    assert (paths, groups) == (tuple(wanted.split()), ("03", "12", "12", "anna", "ben"))
    assert classes == tuple(path.split("/")[0] for path in paths)
    assert all((layout.CLIPS / path).read_text() == path for path, *_ in listed())
    assert (record["files_ignored"], record["warnings"], record["folder"]) == (2, [], "mine")
    assert record["classes"] == {"jump": {"clips": 3, "groups": 2}, "run": {"clips": 2, "groups": 2}}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one video"),
        (["a/x_1.mp4", "a/x_1.avi"], "one file per video"),
        (["a/b/c/d_1.mp4"], r"class/group/clip.*a/b/c/d_1.*the folder in which the folders of the classes lie"),
        (NAMED, r"group_pattern.* 4 other.*anna-1"),
        ([f"set/{name}" for name in UCF], r"two classes.*found 1 class.*the folder in which the folders"),
        (["a/x_1.mp4", "b/x_1.mp4"], r"two groups in a class.*a/1, b/1.*group_pattern"),
        ([f"{side}/{name}" for side in ("train", "Test") for name in UCF], r"folders of classes, found Test, train"),
        ([f"{side}/a/b/{k}_1.mp4" for side in ("train", "val") for k in "xy"], r"classes, found train, val, the sides"),
        ([f"train/{name}" for name in UCF], r"found train, the sides of a split"),
        (["a/train/x.mp4", "a/test/y.mp4", "b/train/z.mp4"], r"folders of groups, found test, train"),
    ],
)
def test_trees_that_cannot_be_understood_say_why(mine, names, message):
    refused(LayoutError, message, mine, *names)


def test_what_is_sound_or_was_there_before_stays(mine, run):
    record = mine(*UCF, "train/v_g01_c01.mp4", "train/v_g02_c01.mp4")
    assert set(record["classes"]) == {"a", "b", "train"}, "one class may be called like a side"
    assert record["warnings"] == ["no split by group for classes with one group, such as b"]
    before = listed()
    with pytest.raises(LayoutError):
        mine("a/b/c/d_1.mp4")
    refused(FileNotFoundError, r"video\.acquire\.folder", run, "folder")
    assert listed() == before


def test_equal_videos_in_two_classes_are_refused_and_in_two_groups_counted(mine, capsys):
    record = mine(*UCF, content={UCF[1]: b"same", UCF[0]: b"same"})
    assert record["warnings"][-1] == f"1 video(s) with equal content in two groups: {UCF[0]} = {UCF[1]}"
    assert f"video: warning: {record['warnings'][-1]}" in capsys.readouterr().out
    with pytest.raises(LayoutError, match=f"one class, found 1 with equal content in two, such as {UCF[0]} = {UCF[3]}"):
        mine(*UCF, content=dict.fromkeys((UCF[0], UCF[3]), b"same"))


def test_groups_follow_a_rule_and_doubtful_ones_are_shown(mine):
    film = "brush/April_09_brush_hair_goo"
    record = mine(*(f"{film}_{k}.avi" for k in range(3)), *(f"wheel/Turnk_r_Pippi_{k}.avi" for k in range(3)))
    assert record["warnings"] == [
        f"video.acquire.group_pattern makes every clip a group of its own: {film}_0.avi is in group 0; "
        f"{film}_1.avi is in group 1; {film}_2.avi is in group 2"
    ]
    assert "takes" not in str(mine(*UCF)["warnings"])
    record = mine(*(f"brush/Other_film_{k}.avi" for k in range(3)))
    assert "seems to take the number of a cut for the group" in record["warnings"][-1]
    mine(*NAMED, group_pattern=r"^(\w+?)[-_]")
    assert {group for path, _, group in listed() if path in NAMED} == {"anna", "ben"}


def test_links_are_followed_and_broken_ones_counted(mine, tmp_path):
    records.write_bytes(tmp_path / "elsewhere" / "g5" / "x.mp4", b"x")
    (tmp_path / "mine" / "b").mkdir(parents=True)
    (tmp_path / "mine" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "b" / "again").symlink_to(tmp_path / "mine")  # without end
    (tmp_path / "mine" / "b" / "v_g07_c01.mp4").symlink_to(tmp_path / "elsewhere" / "g5" / "x.mp4")
    (tmp_path / "mine" / "b" / "v_g08_c01.mp4").symlink_to(tmp_path / "nowhere")
    refused(LayoutError, r"in two, such as b/v_g07_c01\.mp4 = c/g5/x\.mp4", mine, *UCF)
    records.write_bytes(tmp_path / "mine" / "b" / "v_g07_c01.mp4", b"y")
    assert mine(*UCF)["files_ignored"] == 1
    assert ("c/g5/x.mp4", "c", "g5") in listed()


def test_a_damaged_list_is_named(tmp_path):
    content = {b"path,class,group\n../../x.mpg,a,1\n": "out of the folder", b"path,class\na/b.mpg,a\n": "other columns"}
    for text, message in content.items():
        (tmp_path / "index.csv").write_bytes(text)
        refused(LayoutError, message, layout.load, tmp_path / "index.csv")


def first(class_name, group, clip, count=40, seed=1):
    look = synthetic.Look(seed, class_name, group)
    return np.stack(list(itertools.islice(synthetic.frames(Clip(seed, class_name, group, clip), look), count)))


@pytest.mark.parametrize("class_name", list(ucf11.CLASSES))
def test_every_sport_moves_and_its_groups_differ(class_name):
    frames = first(class_name, 3, 1)
    moved = (np.abs(frames[0].astype(int) - frames[20].astype(int)).max(-1) > 30).mean()
    assert 0.001 < moved < 0.9
    assert not np.array_equal(frames[:10], first(class_name, 3, 1, 10, seed=2))
    colours = [first(class_name, group, 1, 10).mean((0, 1, 2)) for group in range(1, 5)]
    within = np.abs(colours[0] - first(class_name, 1, 2, 10).mean((0, 1, 2))).max()
    assert within < 0.5 * np.abs(np.diff(colours, axis=0)).max()


def test_videos_are_drawn_again_to_the_byte(run, monkeypatch):
    monkeypatch.setattr(synthetic, "SHORTEST", 0.2)
    monkeypatch.setattr(synthetic, "LONGEST", 0.5)
    contents = []
    for _ in range(2):
        run("synthetic", 3, synthetic_groups=2, synthetic_clips=1)
        videos = layout.load(layout.INDEX)
        contents.append([(layout.CLIPS / video.path).read_bytes() for video in videos])
    assert contents[0] == contents[1]
    assert len({(video.class_name, video.group) for video in videos}) == len(set(contents[0])) == 22
    assert {video.class_name for video in videos} == set(ucf11.CLASSES)
    assert not list(paths.CHECKPOINTS.iterdir())
    assert {codec.scan(layout.CLIPS / video.path).codec for video in videos} == {"mpg1"}
