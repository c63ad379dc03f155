"""Downloads against a local server: resumed after a cut, verified, trusted once, never half a file."""

import copy
import hashlib
import http.server
import threading

import pytest

from pipeline.common import download, records

pytestmark = pytest.mark.hostile

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves ``content`` at every path but those in ``files``.

    ``cut`` ends the first answers early, ``ranges`` off ignores Range, ``tag`` is the ETag, ``shifts`` moves the start
    of the next parts, ``framing`` says how an answer tells its end: by its length, in chunks, or not at all.
    """

    def __init__(self):
        outer = self
        self.shifts, self.framing, self.files = [], "length", {}
        self.cut, self.ranges, self.tag, self.content, self.status, self.seen = [], True, '"1"', CONTENT, 200, []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.seen.append(wanted)
                if outer.status != 200:
                    self.send_error(outer.status)
                    return
                content, start = outer.files.get(self.path, outer.content), 0
                if wanted and outer.ranges and self.headers.get("If-Range") == outer.tag:
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(content):
                    self.send_error(416)
                    return
                part = start > 0
                if part and outer.shifts:
                    start += outer.shifts.pop(0)
                body = content[start:]
                self.send_response(206 if part else 200)
                self.send_header("ETag", outer.tag)
                self.send_header("Connection", "close")
                if part:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                if outer.framing == "length":
                    self.send_header("Content-Length", str(len(body)))
                elif outer.framing == "chunks":
                    self.send_header("Transfer-Encoding", "chunked")
                    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                self.end_headers()
                self.wfile.write(body[: outer.cut.pop(0)] if outer.cut else body)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        self.base = f"http://127.0.0.1:{self.http.server_port}"
        self.url = f"{self.base}/data.bin"

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    running = Server()
    yield running
    running.stop()


def fetch(server, file, **changes):
    return download.fetch(server.url, file, **{"sha256": SHA, **changes})


def test_what_arrived_is_known_again(server, tmp_path):
    server.cut = [100_000, 200_000]
    provenance = fetch(server, tmp_path / "data.bin")
    assert (provenance.origin, provenance.sha256, provenance.trusted_on_first_use) == ("network", SHA, False)
    assert server.seen == [None, "bytes=100000-", "bytes=300000-"]
    assert fetch(server, tmp_path / "data.bin").origin == "present"
    assert len(server.seen) == 3


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("state", "asked"),
    [
        ({"cut": [100_000]}, 2),
        ({"cut": [100_000], "ranges": False}, 2),
        ({"cut": [100_000], "shifts": [-7]}, 3),  # a part that starts elsewhere: without a hash nothing else notices
        ({"cut": [100_000], "shifts": [7]}, 3),
        ({"cut": [100_000], "framing": "chunks"}, 2),
        ({"part": CONTENT}, 2),  # a whole file that was not yet renamed costs one download
    ],
)
def test_the_whole_file_arrives_and_nothing_else(server, tmp_path, state, asked, known):
    vars(server).update(copy.deepcopy(state))
    if "part" in state:
        (tmp_path / "data.bin.part").write_bytes(state["part"])
        (tmp_path / "data.bin.part.tag").write_text(server.tag)
    fetch(server, tmp_path / "data.bin", **({} if known else {"sha256": None, "lock": tmp_path / "lock.json"}))
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.seen) == asked
    assert {file.name for file in tmp_path.iterdir()} == {"data.bin", *([] if known else ["lock.json"])}


def test_a_file_that_changes_between_two_parts_is_not_glued_together(server, tmp_path):
    file = tmp_path / "data.bin"
    server.cut = [50_000] * download.ATTEMPTS
    with pytest.raises(download.DownloadError, match="it resumes"):
        fetch(server, file)
    server.content, server.tag = CONTENT[::-1], '"2"'
    fetch(server, file, sha256=hashlib.sha256(CONTENT[::-1]).hexdigest())
    assert file.read_bytes() == CONTENT[::-1]


def test_a_file_without_its_length_is_trusted_only_with_a_hash(server, tmp_path):
    server.framing = "none"
    with pytest.raises(download.DownloadError, match=r"may be cut off.*NEM_MIRROR"):
        fetch(server, tmp_path / "data.bin", sha256=None, lock=tmp_path / "lock.json")
    assert len(server.seen) == 1
    assert {file.name for file in tmp_path.iterdir()} <= {"data.bin.part", "data.bin.part.tag"}
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    server.cut = [100_000]
    with pytest.raises(download.DownloadError, match=r"found [0-9a-f]{64}"):
        fetch(server, tmp_path / "cut.bin")


def test_a_wrong_hash_leaves_no_file_and_names_both(server, tmp_path):
    with pytest.raises(download.DownloadError, match="a{64}.*found " + SHA + r".*1024000 bytes that begin with b'"):
        fetch(server, tmp_path / "data.bin", sha256="a" * 64)
    assert not list(tmp_path.iterdir())


def test_missing_files_are_not_asked_for_again_and_the_message_says_what_to_do(server, tmp_path):
    server.status = 404
    with pytest.raises(download.DownloadError, match=r"put it at x/data\.bin in the folder that NEM_MIRROR") as caught:
        fetch(server, tmp_path / "data.bin", mirror_path="x/data.bin")
    assert server.url in str(caught.value)
    assert SHA in str(caught.value)
    assert len(server.seen) == 1


def test_trust_on_first_use(server, tmp_path):
    lock = tmp_path / "lock.json"
    first = fetch(server, tmp_path / "a", sha256=None, lock=lock)
    assert first.trusted_on_first_use
    assert records.read_json(lock) == {server.url: SHA}
    server.content, server.tag = CONTENT + b"!", '"2"'
    with pytest.raises(download.DownloadError, match="source changed"):
        fetch(server, tmp_path / "b", sha256=None, lock=lock)
    with pytest.raises(ValueError, match="lock file"):
        fetch(server, tmp_path / "b", sha256=None)


def accept(file):
    if file.read_bytes() != CONTENT:
        raise ValueError("not the content")


def test_a_portals_page_is_never_trusted(server, tmp_path):
    """The page of a portal that wants a password first, served in place of every file, must not lock the file out."""
    lock = tmp_path / "lock.json"
    server.content, server.tag = b"<html>Please sign in</html>", '"portal"'
    with pytest.raises(download.DownloadError, match=r"found an HTML page of 27 bytes.*network.*not trusted"):
        fetch(server, tmp_path / "a", sha256=None, lock=lock, accept=accept)
    assert not list(tmp_path.iterdir())
    server.content, server.tag = CONTENT, '"1"'
    assert fetch(server, tmp_path / "a", sha256=None, lock=lock, accept=accept).sha256 == SHA
    server.content, server.tag = b"<html>", '"2"'
    with pytest.raises(download.DownloadError, match=r"HTML page.*changed.*remove the address from .*lock\.json"):
        fetch(server, tmp_path / "b", sha256=None, lock=lock, accept=accept)
    assert records.read_json(lock) == {server.url: SHA}


@pytest.mark.parametrize("present", [True, False])
def test_a_lock_that_holds_a_portals_page_heals(server, tmp_path, present):
    """Locks were written before files were looked at; such a one is known by a file that has the locked hash."""
    page, lock, file = b"<!DOCTYPE html>Please sign in", tmp_path / "lock.json", tmp_path / "a"
    records.write_json(lock, {server.url: hashlib.sha256(page).hexdigest(), "http://other": "1"})
    if present:
        file.write_bytes(page)
    else:
        server.content, server.tag = page, '"portal"'
    with pytest.raises(download.DownloadError, match=r"HTML page of 29 bytes.*not the content.*not trusted"):
        fetch(server, file, sha256=None, lock=lock, accept=accept)
    assert records.read_json(lock) == {"http://other": "1"}
    server.content, server.tag = CONTENT, '"1"'
    fetch(server, file, sha256=None, lock=lock, accept=accept)
    assert records.read_json(lock) == {server.url: SHA, "http://other": "1"}
    assert file.read_bytes() == CONTENT


def test_the_mirror_comes_first(server, tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "data.bin").write_bytes(CONTENT)
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    assert fetch(server, tmp_path / "data.bin", mirror_path="data.bin").origin == "mirror"
    assert not server.seen
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="NEM_MIRROR"):
        fetch(server, tmp_path / "other.bin", mirror_path="data.bin")


@pytest.mark.parametrize("url", ["ftp://example.org/x", "javascript:alert(1)", "/etc/passwd", ""])
def test_other_addresses_are_refused(url, tmp_path):
    with pytest.raises(ValueError, match="http, https or file"):
        download.fetch(url, tmp_path / "x", sha256=SHA)
