"""UCF-11 from an address, or in any form from the mirror, with a record of what came from where."""

import json
import zipfile
from itertools import product
from pathlib import Path

import pytest

from pipeline.common import download, paths, records
from pipeline.video import layout
from pipeline.video.acquire import archive, ucf11
from tests.video import samples

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
    make = samples.rar if kind == "rar" else samples.zipped
    return make(folder / Path(ucf11.URLS[kind]).name, CLIPS)


def check_content():
    assert layout.load(layout.INDEX) == EXPECTED
    assert [(layout.CLIPS / video.path).read_bytes() for video in EXPECTED] == list(CLIPS.values())[:3]


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    folder = tmp_path / "mirror" / "ucf11"
    folder.mkdir(parents=True)
    monkeypatch.setenv("NEM_MIRROR", str(folder.parent))
    return folder


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
    assert sorted(file.name for file in paths.raw("video").iterdir()) == ["index.csv", "source.json", "videos"]
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
    other = samples.zipped(file, {"top/readme.txt": b"hello"}).read_bytes()
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
        with zipfile.ZipFile(pack(tmp_path, "zip")) as file:
            file.extractall(shelf)
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
    stale = paths.CHECKPOINTS / "acquire-video" / "videos" / "diving" / "v_diving_01" / "v_diving_01_01.mpg"
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
