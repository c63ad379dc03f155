"""Downloads against a local server: resumed after a cut, verified, trusted once, never half a file."""

import copy
import hashlib
import http.server
import threading
from types import SimpleNamespace

import pytest

from pipeline.common import download, records
from tests.conftest import refused

pytestmark = pytest.mark.hostile

CONTENT, OTHER = bytes(range(256)) * 4000, bytes(range(256))[::-1] * 4000
PAGE = b"<!DOCTYPE html>Please sign in"
SHA, OTHER_SHA, PAGE_SHA = (hashlib.sha256(content).hexdigest() for content in (CONTENT, OTHER, PAGE))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state, wanted, start = self.server.state, self.headers.get("Range"), 0
        state.seen.append(wanted)
        content = state.files.get(self.path, state.content)
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        if wanted and state.ranges and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if state.status != 200 or start >= len(content):
            self.send_error(416 if state.status == 200 else state.status)
            return
        part = start > 0
        start += state.shifts.pop(0) if part and state.shifts else 0
        body = content[start:]
        self.send_response(206 if part else 200)
        self.send_header("ETag", tag)
        self.send_header("Connection", "close")
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if state.framing == "length":
            self.send_header("Content-Length", str(len(body)))
        elif state.framing == "chunks":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        self.end_headers()
        self.wfile.write(body[: state.cut.pop(0)] if state.cut else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serves ``content`` at every path but those in ``files``, with its hash as ETag.

    ``cut`` ends the first answers early, ``ranges`` off ignores Range, ``shifts`` moves the start of the next parts,
    ``framing`` says how an answer tells its end: by its length, in chunks, or not at all.
    """
    monkeypatch.setattr(download, "PAUSE", 0.01)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        base = f"http://127.0.0.1:{running.server_port}"
        running.state = SimpleNamespace(
            base=base, url=f"{base}/data.bin", content=CONTENT, files={}, framing="length",
            seen=[], cut=[], shifts=[], ranges=True, status=200,
        )  # fmt: skip
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running.state
        running.shutdown()


@pytest.fixture
def fetch(server, tmp_path):
    def get(name="data.bin", *, known=SHA, **changes):
        lock = {} if known else {"lock": tmp_path / "lock.json"}
        return download.fetch(server.url, tmp_path / name, **{"sha256": known, **lock, **changes})

    return get


def accept(file):
    if file.read_bytes() != CONTENT:
        raise ValueError("not the content")


@pytest.mark.parametrize("known", [SHA, None])
@pytest.mark.parametrize(
    ("state", "asked"),
    [
        ({"cut": [100_000, 200_000]}, [None, "bytes=100000-", "bytes=300000-"]),
        ({"cut": [100_000], "ranges": False}, [None, "bytes=100000-"]),
        # A part that starts elsewhere: without a hash nothing else notices.
        *(({"cut": [100_000], "shifts": [by]}, [None, "bytes=100000-", None]) for by in (-7, 7)),
        ({"cut": [100_000], "framing": "chunks"}, [None, "bytes=65536-"]),
        ({"part": CONTENT}, ["bytes=1024000-", None]),  # a whole file that was not yet renamed costs one download
    ],
)
def test_the_whole_file_arrives_and_nothing_else(server, fetch, tmp_path, state, asked, known):
    vars(server).update(copy.deepcopy(state))
    if "part" in state:
        (tmp_path / "data.bin.part").write_bytes(state["part"])
        (tmp_path / "data.bin.part.tag").write_text(f'"{SHA}"')
    for _ in range(2):
        assert fetch(known=known) == {"url": server.url, "sha256": SHA, "trusted_on_first_use": not known}
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert {file.name for file in tmp_path.iterdir()} == {"data.bin", *([] if known else ["lock.json"])}
    assert server.seen == asked


def test_a_file_that_changes_between_two_parts_is_not_glued_together(server, fetch, tmp_path):
    server.cut = [50_000] * download.ATTEMPTS
    refused(download.DownloadError, "it resumes", fetch)
    server.content = OTHER
    fetch(known=OTHER_SHA)
    assert (tmp_path / "data.bin").read_bytes() == OTHER


def test_a_file_without_its_length_is_trusted_only_with_a_hash(server, fetch, tmp_path):
    server.framing = "none"
    refused(download.DownloadError, r"may be cut off.*NEM_MIRROR", fetch, known=None)
    assert len(server.seen) == 1
    assert {file.name for file in tmp_path.iterdir()} <= {"data.bin.part", "data.bin.part.tag"}
    fetch()
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    server.cut = [100_000]
    refused(download.DownloadError, r"found [0-9a-f]{64}", fetch, "cut.bin")


def test_what_cannot_be_had_is_asked_for_once_and_the_message_says_what_to_do(server, fetch, tmp_path):
    with pytest.raises(download.DownloadError, match="a{64}.*found " + SHA + r".*1024000 bytes that begin with b'"):
        fetch(known="a" * 64)
    server.status = 404
    message = rf"{server.url} \(hash {SHA}.*put it at x/data\.bin in the folder that NEM_MIRROR"
    refused(download.DownloadError, message, fetch, mirror_path="x/data.bin")
    assert len(server.seen) == 2
    assert not list(tmp_path.iterdir())


def test_a_portals_page_is_never_trusted(server, fetch, tmp_path):
    """The page of a portal that wants a password first, served in place of every file, must not lock the file out."""
    server.content = PAGE
    with pytest.raises(download.DownloadError, match=r"found an HTML page of 29 bytes.*network.*not trusted"):
        fetch(known=None, accept=accept)
    assert not list(tmp_path.iterdir())
    server.content = CONTENT
    assert fetch(known=None, accept=accept)["trusted_on_first_use"]
    server.content = PAGE
    with pytest.raises(download.DownloadError, match=r"HTML page.*changed.*remove the address from .*lock\.json"):
        fetch("b", known=None, accept=accept)
    assert records.read_json(tmp_path / "lock.json") == {server.url: SHA}
    # Locks were written before files were looked at; one of a page is known by a page that has the locked hash.
    for present in (True, False):
        records.write_json(tmp_path / "lock.json", {server.url: PAGE_SHA, "http://other": "1"})
        (tmp_path / "data.bin").write_bytes(PAGE) if present else (tmp_path / "data.bin").unlink()
        server.content = CONTENT if present else PAGE
        with pytest.raises(download.DownloadError, match=r"HTML page of 29 bytes.*not the content.*not trusted"):
            fetch(known=None, accept=accept)
        assert records.read_json(tmp_path / "lock.json") == {"http://other": "1"}
        server.content = CONTENT
        assert fetch(known=None, accept=accept)["sha256"] == SHA


def test_the_mirror_comes_first(server, fetch, tmp_path, monkeypatch):
    records.write_bytes(tmp_path / "mirror" / "m.bin", CONTENT)
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "mirror"))
    assert fetch(mirror_path="m.bin")["sha256"] == SHA
    assert not server.seen
    monkeypatch.setenv("NEM_MIRROR", str(tmp_path / "nowhere"))
    refused(FileNotFoundError, "NEM_MIRROR", fetch, "other.bin", mirror_path="m.bin")
