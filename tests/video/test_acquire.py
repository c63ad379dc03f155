"""From an address, a mirror or a folder to one layout, with a record of what came from where."""

import http.server
import json
import os
import threading
import zipfile
from functools import partial

import pytest

from pipeline import download, params, paths, records
from pipeline.params import VideoAcquire
from pipeline.video import acquire, archive, layout, synthetic
from stages import acquire as stage
from tests.video import samples
from tests.video.test_archive import zipped
from tests.video.test_codec import limit


@pytest.fixture
def clips(tmp_path_factory):
    """A few clips in UCF-11's layout, with what else lies in its archive."""
    one = samples.video(tmp_path_factory.mktemp("clips") / "a.mpg", 12).read_bytes()
    top = "UCF11_updated_mpg"
    return {
        f"{top}/basketball": None,
        f"{top}/basketball/v_shooting_01/v_shooting_01_01.mpg": one,
        f"{top}/basketball/v_shooting_01/v_shooting_01_02.mpg": one + b"\0" * 40_000,
        f"{top}/walking/v_walk_dog_07/v_walk_dog_07_01.mpg": one,
        f"{top}/walking/Annotation/v_walk_dog_07/v_walk_dog_07_01.mpg": b"no clip",
        f"{top}/walking/v_walk_dog_07/v_walk_dog_07_01.xgtf": b"<xml/>",
    }


EXPECTED = [
    layout.Video("basketball/v_shooting_01/v_shooting_01_01.mpg", "basketball", "01"),
    layout.Video("basketball/v_shooting_01/v_shooting_01_02.mpg", "basketball", "01"),
    layout.Video("walking/v_walk_dog_07/v_walk_dog_07_01.mpg", "walking", "07"),
]


class Flaky(http.server.BaseHTTPRequestHandler):
    """Serves files with ranges; the first answer for each file breaks off half-way."""

    def __init__(self, *arguments, folder, log, **named):
        self.folder, self.log = folder, log
        super().__init__(*arguments, **named)

    def do_GET(self):
        data = (self.folder / self.path.lstrip("/")).read_bytes()
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        first = not any(path == self.path for path, _ in self.log)
        self.log.append((self.path, start))
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", '"one"')
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start : len(data) // 2] if first else data[start:])
        if first:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        """Stay quiet."""


@pytest.fixture
def server(tmp_path):
    folder, log = tmp_path / "served", []
    folder.mkdir()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Flaky, folder=folder, log=log))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", folder, log
    running.shutdown()
    running.server_close()


def record():
    return json.loads(paths.source_record("video").read_text())


def pack(folder, kind, clips):
    name = acquire.UCF11_URLS[kind].rsplit("/", 1)[1]
    if kind == "rar":
        return samples.rar(folder / name, clips)
    return zipped(folder / name, {name: content for name, content in clips.items() if content is not None})


@pytest.mark.parametrize("kind", ["rar", "zip"])
def test_ucf11_is_downloaded_resumed_verified_and_unpacked(project, server, clips, monkeypatch, kind):
    address, folder, log = server
    packed = pack(folder, kind, clips)
    monkeypatch.setitem(acquire.UCF11_URLS, kind, f"{address}/{packed.name}")
    acquire.acquire(VideoAcquire(source="ucf11", ucf11_from=kind), 1)
    assert [start for _, start in log] == [0, packed.stat().st_size // 2]
    assert layout.load(paths.VIDEO_INDEX) == EXPECTED
    for video in EXPECTED:
        assert (paths.VIDEO_CLIPS / video.path).read_bytes() == clips[f"UCF11_updated_mpg/{video.path}"]
    assert record()["url"] == f"{address}/{packed.name}"
    assert record()["trusted_on_first_use"] is True
    assert "3 of about 1600 clips, 9 of 11 classes missing" in record()["partial"]
    assert json.loads(paths.DOWNLOAD_LOCK.read_text()) == {record()["url"]: record()["sha256"]}


def test_what_is_no_sound_archive_of_videos_is_not_trusted(project, tmp_path, clips, monkeypatch):
    """First a portal's page, then an archive of something else, then a damaged one: the true one still gets in."""
    folder = tmp_path / "mirror" / "ucf11"
    folder.mkdir(parents=True)
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    wanted = VideoAcquire(source="ucf11", ucf11_from="zip")
    file = folder / acquire.UCF11_URLS["zip"].rsplit("/", 1)[1]
    file.write_bytes(b"<html>Please sign in</html>")
    with pytest.raises(download.DownloadError, match="expected a RAR or ZIP archive"):
        acquire.acquire(wanted, 1)
    zipped(file, {"top/readme.txt": b"hello"})
    with pytest.raises(download.DownloadError, match="expected an archive of videos"):
        acquire.acquire(wanted, 1)
    assert not paths.DOWNLOAD_LOCK.exists()
    pack(folder, "zip", clips)
    sound = file.read_bytes()
    at = sound.index(b"basketball/v_shooting_01/v_shooting_01_02.mpg") + 200
    file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with pytest.raises(archive.DamagedError, match="fetch it again"):
        acquire.acquire(wanted, 1)
    assert records.read_json(paths.DOWNLOAD_LOCK) == {}
    file.write_bytes(sound)
    acquire.acquire(wanted, 1)
    assert layout.load(paths.VIDEO_INDEX) == EXPECTED


def test_an_archive_that_changed_since_it_was_trusted_is_refused(project, server, clips, monkeypatch):
    address, folder, _ = server
    packed = pack(folder, "rar", clips)
    monkeypatch.setitem(acquire.UCF11_URLS, "rar", f"{address}/{packed.name}")
    acquire.acquire(VideoAcquire(source="ucf11", ucf11_from="rar"), 1)
    packed.write_bytes(packed.read_bytes() + b"more")
    (paths.CHECKPOINTS / "downloads" / packed.name).unlink()
    with pytest.raises(OSError, match="expected SHA-256"):
        acquire.acquire(VideoAcquire(source="ucf11", ucf11_from="rar"), 1)


@pytest.mark.parametrize("kind", ["rar", "zip", "folder"])
def test_ucf11_in_any_form_is_found_in_the_mirror(project, tmp_path, clips, monkeypatch, kind):
    mirror = tmp_path / "mirror" / "ucf11"
    mirror.mkdir(parents=True)
    if kind == "folder":
        with zipfile.ZipFile(pack(tmp_path, "zip", clips)) as file:
            file.extractall(mirror)
    else:
        pack(mirror, kind, clips)
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    acquire.acquire(VideoAcquire(source="ucf11"), 1)
    assert layout.load(paths.VIDEO_INDEX) == EXPECTED
    assert all((paths.VIDEO_CLIPS / video.path).is_file() for video in EXPECTED)
    assert str(tmp_path) not in json.dumps(record())


def test_what_another_archive_left_half_unpacked_is_not_mixed_in(project, tmp_path, clips, monkeypatch):
    (tmp_path / "mirror" / "ucf11").mkdir(parents=True)
    pack(tmp_path / "mirror" / "ucf11", "rar", clips)
    stale = paths.CHECKPOINTS / "acquire-video" / "diving" / "v_diving_01" / "v_diving_01_01.mpg"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"other")
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    acquire.acquire(VideoAcquire(source="ucf11"), 1)
    assert not (paths.VIDEO_CLIPS / "diving").exists()


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def test_own_videos_in_both_layouts(project, tmp_path):
    tree(tmp_path / "mine", "run/anna/one.mp4", "run/ben/two.MOV", "jump/v_Jump_g03_c01.avi", "jump/x_12_4.mp4",
         "run/notes.txt", "run/.hidden_1.mp4")  # fmt: skip
    acquire.acquire(VideoAcquire(source="folder", folder=str(tmp_path / "mine")), 1)
    found = {(video.path, video.class_name, video.group) for video in layout.load(paths.VIDEO_INDEX)}
    assert found == {
        ("run/anna/one.mp4", "run", "anna"),
        ("run/ben/two.MOV", "run", "ben"),
        ("jump/v_Jump_g03_c01.avi", "jump", "03"),
        ("jump/x_12_4.mp4", "jump", "12"),
    }
    assert record()["files_ignored"] == 2
    assert record()["classes"] == {"jump": {"clips": 2, "groups": 2}, "run": {"clips": 2, "groups": 2}}


def test_a_rule_for_groups_is_a_parameter(project, tmp_path):
    tree(tmp_path / "mine", "run/anna-1.mp4", "run/ben-1.mp4")
    with pytest.raises(layout.LayoutError, match=r"group_pattern(.|\n)*anna-1"):
        acquire.acquire(VideoAcquire(source="folder", folder=str(tmp_path / "mine")), 1)
    acquire.acquire(VideoAcquire(source="folder", folder=str(tmp_path / "mine"), group_pattern=r"^(\w+)-"), 1)
    assert [video.group for video in layout.load(paths.VIDEO_INDEX)] == ["anna", "ben"]


@pytest.mark.parametrize(
    ("names", "pattern", "message"),
    [
        ([], r"(\d)", "at least one video"),
        (["a/b/c/d_1.mp4"], r"(\d)", "class/clip or class/group/clip"),
        (["a/x_1.mp4", "a/x_1.avi"], r"(\d)", "one file per video"),
        (["a/x_1.mp4"], r"(\d", "regular expression"),
        (["a/x_1.mp4"], r"\d", "found none in"),
    ],
)
def test_trees_that_cannot_be_understood_say_why(project, tmp_path, names, pattern, message):
    (tmp_path / "mine").mkdir()
    tree(tmp_path / "mine", *names)
    with pytest.raises(layout.LayoutError, match=message):
        acquire.acquire(VideoAcquire(source="folder", folder=str(tmp_path / "mine"), group_pattern=pattern), 1)


def test_sources_that_name_nothing_say_what_to_set(project):
    with pytest.raises(FileNotFoundError, match=r"video\.acquire\.folder"):
        acquire.acquire(VideoAcquire(source="folder"), 1)
    with pytest.raises(FileNotFoundError, match="NEM_MIRROR"):
        acquire.acquire(VideoAcquire(source="ucf11", ucf11_from="folder"), 1)


def test_a_list_with_paths_that_lead_out_is_refused(tmp_path):
    (tmp_path / "index.csv").write_text("path,class,group\n../../x.mpg,a,1\n")
    with pytest.raises(layout.LayoutError, match="below the folder"):
        layout.load(tmp_path / "index.csv")


@pytest.mark.parametrize("damage", [b"\xff", b"x" * 200_000, b'"' + b"y" * 200_000])
def test_a_damaged_list_is_named(tmp_path, damage):
    (tmp_path / "index.csv").write_bytes(b"path,class,group\na/b.mpg,a,1\n" + damage)
    with pytest.raises(layout.LayoutError, match=r"index\.csv"):
        layout.load(tmp_path / "index.csv")


def test_synthetic_videos_are_the_same_for_any_number_of_workers(project, monkeypatch):
    monkeypatch.setattr(synthetic, "SHORTEST", 0.2)
    monkeypatch.setattr(synthetic, "LONGEST", 0.5)
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    acquire.acquire(VideoAcquire(synthetic_groups=2, synthetic_clips=1), 3)
    videos = layout.load(paths.VIDEO_INDEX)
    assert {video.class_name for video in videos} == set(layout.UCF11)
    assert len({(video.class_name, video.group) for video in videos}) == 22
    assert os.listdir(paths.CHECKPOINTS) == []  # noqa: PTH208 - what lies in it, not where
    first = {video: (paths.VIDEO_CLIPS / video.path).read_bytes() for video in videos}
    assert len(set(first.values())) == 22
    acquire.acquire(VideoAcquire(synthetic_groups=2, synthetic_clips=1), 3)
    assert {video: (paths.VIDEO_CLIPS / video.path).read_bytes() for video in videos} == first


def test_drawn_videos_for_which_there_is_no_room_end_the_stage(project, monkeypatch, capsys):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    (project / "params.yaml").write_text(params.render(params.Params()))
    with limit(8 * 4096):
        assert stage.main(["video"]) == 1
    assert "acquire: expected room for the video" in capsys.readouterr().err
    assert not paths.VIDEO_RAW.exists()
