"""Downloads against a local server: resumed after a cut, verified, trusted once, never half a file."""

import hashlib
import http.server
import threading

import pytest

from pipeline import download, records

pytestmark = pytest.mark.hostile

CONTENT = bytes(range(256)) * 4000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT.

    ``cut`` ends the first answers early, ``ranges`` off ignores Range, ``tag`` is the ETag, ``shifts`` moves the start
    of the next parts, ``framing`` says how an answer tells its end: by its length, in chunks, or not at all.
    """

    def __init__(self):
        outer = self
        self.shifts, self.framing = [], "length"
        self.cut, self.ranges, self.tag, self.content, self.status, self.seen = [], True, '"1"', CONTENT, 200, []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.seen.append(wanted)
                if outer.status != 200:
                    self.send_error(outer.status)
                    return
                start = 0
                if wanted and outer.ranges and self.headers.get("If-Range") == outer.tag:
                    start = int(wanted.removeprefix("bytes=").rstrip("-"))
                part = start > 0
                if part and outer.shifts:
                    start += outer.shifts.pop(0)
                body = outer.content[start:]
                self.send_response(206 if part else 200)
                self.send_header("ETag", outer.tag)
                self.send_header("Connection", "close")
                if part:
                    self.send_header("Content-Range", f"bytes {start}-{len(outer.content) - 1}/{len(outer.content)}")
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
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/data.bin"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def fetch(server, file, **changes):
    return download.fetch(server.url, file, **{"sha256": SHA, "pause": 0.01, **changes})


def test_a_cut_connection_is_resumed(server, tmp_path):
    server.cut = [100_000, 200_000]
    found = fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.seen == [None, "bytes=100000-", "bytes=300000-"]
    assert (found.origin, found.sha256, found.trusted_on_first_use) == ("network", SHA, False)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data.bin"]
    assert fetch(server, tmp_path / "data.bin").origin == "present"
    assert len(server.seen) == 3


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.cut, server.ranges = [100_000], False
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT


def test_a_file_that_changes_between_two_parts_is_not_glued_together(server, tmp_path):
    file = tmp_path / "data.bin"
    server.cut = [50_000] * download.ATTEMPTS
    with pytest.raises(download.DownloadError, match="it resumes"):
        fetch(server, file)
    server.content, server.tag = CONTENT[::-1], '"2"'
    found = fetch(server, file, sha256=hashlib.sha256(CONTENT[::-1]).hexdigest())
    assert found.origin == "network"
    assert file.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("shift", [-7, 7])
def test_a_part_that_starts_elsewhere_is_not_appended(server, tmp_path, shift):
    """Without a known hash nothing else would notice."""
    server.cut, server.shifts = [100_000], [shift]
    fetch(server, tmp_path / "data.bin", sha256=None, lock=tmp_path / "lock.json")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert server.seen == [None, "bytes=100000-", None]


def test_a_file_without_its_length_is_trusted_only_with_a_hash(server, tmp_path):
    server.framing = "none"
    with pytest.raises(download.DownloadError, match=r"may be cut off.*NEM_MIRROR"):
        fetch(server, tmp_path / "data.bin", sha256=None, lock=tmp_path / "lock.json")
    assert len(server.seen) == 1
    assert not (tmp_path / "lock.json").exists()
    assert not (tmp_path / "data.bin").exists()
    fetch(server, tmp_path / "data.bin")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    server.cut = [100_000]
    with pytest.raises(download.DownloadError, match=r"found [0-9a-f]{64}"):
        fetch(server, tmp_path / "cut.bin")


def test_a_cut_chunk_is_noticed(server, tmp_path):
    server.framing, server.cut = "chunks", [100_000]
    fetch(server, tmp_path / "data.bin", sha256=None, lock=tmp_path / "lock.json")
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert len(server.seen) == 2


def test_a_wrong_hash_leaves_no_file_and_names_both(server, tmp_path):
    with pytest.raises(download.DownloadError, match="a{64}.*found " + SHA):
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


def test_a_portals_page_is_never_trusted(server, tmp_path):
    """The page of a portal that wants a password first, served in place of every file, must not lock the file out."""

    def accept(file):
        if file.read_bytes() != CONTENT:
            raise ValueError(f"{file.name} begins with {file.read_bytes()[:6]!r}")

    lock = tmp_path / "lock.json"
    server.content, server.tag = b"<html>Please sign in</html>", '"portal"'
    with pytest.raises(download.DownloadError, match=r"found an HTML page of 27 bytes.*network.*not trusted"):
        fetch(server, tmp_path / "a", sha256=None, lock=lock, accept=accept)
    assert not lock.exists()
    assert not (tmp_path / "a").exists()
    server.content, server.tag = CONTENT, '"1"'
    assert fetch(server, tmp_path / "a", sha256=None, lock=lock, accept=accept).sha256 == SHA
    assert records.read_json(lock) == {server.url: SHA}
    server.content, server.tag = b"<html>", '"2"'
    with pytest.raises(download.DownloadError, match=r"HTML page.*changed.*remove the address from .*lock\.json"):
        fetch(server, tmp_path / "b", sha256=None, lock=lock, accept=accept)
    assert records.read_json(lock) == {server.url: SHA}


@pytest.mark.parametrize("present", [True, False])
def test_a_lock_that_holds_a_portals_page_heals(server, tmp_path, present):
    """Locks were written before files were looked at; such a one is known by a file that has the locked hash."""
    page, lock, file = b"<!DOCTYPE html>Please sign in", tmp_path / "lock.json", tmp_path / "a"

    def accept(file):
        if file.read_bytes() != CONTENT:
            raise ValueError("not the content")

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


def test_a_wrong_file_of_a_known_hash_is_described(server, tmp_path):
    server.content = b"<HTML><body>busy"
    with pytest.raises(download.DownloadError, match=r"expected SHA-256 .*found .*an HTML page of 16 bytes.*removed"):
        fetch(server, tmp_path / "a")
    server.content = b"PK\x03\x04 something"
    with pytest.raises(download.DownloadError, match=r"14 bytes that begin with b'PK"):
        fetch(server, tmp_path / "a")


def test_trust_can_be_taken_back(server, tmp_path):
    lock = tmp_path / "lock.json"
    records.write_json(lock, {"http://other": "1"})
    fetch(server, tmp_path / "a", sha256=None, lock=lock)
    download.forget(server.url, tmp_path / "a", lock)
    assert records.read_json(lock) == {"http://other": "1"}
    assert not (tmp_path / "a").exists()
    download.forget(server.url, tmp_path / "a", tmp_path / "none.json")


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
