"""Fetching files: the mirror first, then the network; resumable. Nothing is used without a hash, known or locked.

A hash that nobody published is locked on first use, if the file is what it should be at all.
"""

import http.client
import os
import shutil
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.common import paths, records

ATTEMPTS = 5  # tries per download; each goes on where the last one stopped
TIMEOUT = 30  # seconds without a byte before a try counts as failed
PAUSE = 1.0  # seconds before the second try; doubled each time


class DownloadError(OSError):
    """A file that could not be had; the message names URL, hash and remedy."""


def fetch(url: str, destination: Path, *, sha256: str | None, mirror_path: str | None = None,
          lock: Path | None = None, accept: Callable[[Path], None] | None = None) -> dict[str, str | bool]:  # fmt: skip
    """Put the file at ``url`` (http, https or file) at ``destination``; return the record of where it came from.

    A correct file at the destination is left alone, and equal files make equal records, whatever the way they came.
    Without ``sha256`` it is trusted on first use, and ``lock``, a JSON file, keeps the hashes by address. ``accept``
    raises a ``ValueError`` for what cannot be the file, such as a portal's page; it is asked about trusted ones too,
    since an older lock may hold a page's hash. ``mirror_path`` is the file's place in the mirror, if it may be there.
    A ``DownloadError`` says that the file cannot be had or is another one.
    """
    known: dict[str, str] = records.read_json(lock) if lock is not None and lock.is_file() else {}
    file = File(url, destination, sha256 or known.get(url), mirror_path)
    origin, content = file.place("update the hash" if lock is None else f"remove the address from {lock}")
    try:
        if accept is not None:
            accept(destination)
    except ValueError as error:
        looks = _describe(destination)
        forget(url, destination, lock)
        cure = "It was removed and its hash is not trusted; try again, from a network without a portal"
        raise DownloadError(f"expected the file at {url}, found {looks} ({origin}): {error}. {cure}") from error
    if file.expected is None and lock is not None:
        records.write_json(lock, {**known, url: content})
    return {"url": url, "sha256": content, "trusted_on_first_use": sha256 is None}


def forget(url: str, destination: Path, lock: Path | None) -> None:
    """Remove a file that turned out to be damaged, and with it the trust that it won when it was first used."""
    destination.unlink(missing_ok=True)
    if lock is not None and lock.is_file():
        records.write_json(lock, {known: sha256 for known, sha256 in records.read_json(lock).items() if known != url})


def _describe(file: Path) -> str:
    """What a file is that should be another one, as far as its beginning tells."""
    with file.open("rb") as content:
        begin = content.read(512)
    if begin.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"an HTML page of {file.stat().st_size} bytes, such as a portal or a server's error serves"
    return f"{file.stat().st_size} bytes that begin with {begin[:12]!r}"


@dataclass(frozen=True)
class File:
    """A file to fetch."""

    url: str
    destination: Path
    expected: str | None  # its hash; None when nobody knows it yet
    mirror_path: str | None
    hash_of: Callable[[Path], str] = records.sha256_of
    quiet: bool = False  # without a bar of progress

    def place(self, cure: str = "update the hash") -> tuple[str, str]:
        """Put the file at its place; return its origin and hash. ``cure`` says what to do if the source changed."""
        origin, at, folder = "present", self.destination, paths.mirror()
        if self.expected is None or not at.is_file() or self.hash_of(at) != self.expected:
            origin = "network"
            if folder is not None and self.mirror_path is not None and (folder / self.mirror_path).is_file():
                origin = "mirror"
                with records.atomic_path(at) as temporary:
                    shutil.copyfile(folder / self.mirror_path, temporary)
            else:
                self._download()
        content = self.hash_of(at)
        if self.expected not in (None, content):
            looks, kind = _describe(at), "SHA-256" if len(content) == 64 else "git blob"
            at.unlink()
            raise DownloadError(f"expected {kind} {self.expected} for {self.url}, found {content} ({looks}, from the "
                                f"{origin}); the file was removed. Try again; if it persists, the source changed: "
                                f"check it and {cure}")  # fmt: skip
        return origin, content

    def _download(self) -> None:
        """Download the file, in as many tries as it may take."""
        self.destination.parent.mkdir(parents=True, exist_ok=True)
        part = self.destination.with_name(self.destination.name + ".part")
        tag = part.with_name(part.name + ".tag")
        for attempt in range(ATTEMPTS):
            try:
                self._transfer(part, tag)
                break
            except DownloadError:
                raise
            except (OSError, http.client.HTTPException) as error:
                code = getattr(error, "code", 0)  # of an HTTPError
                if code == 416:  # the server's file ends where ours does, or before
                    part.unlink()
                if attempt + 1 == ATTEMPTS or code in (401, 403, 404, 410):
                    mirror = f", or put it at {self.mirror_path} in the folder that {paths.MIRROR_VARIABLE} names"
                    raise DownloadError(
                        f"expected to download {self.url} (hash {self.expected or 'not known yet'}), found: {error}. "
                        f"Check the network and run again (it resumes){mirror if self.mirror_path else ''}"
                    ) from error
                time.sleep(PAUSE * 2**attempt)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(self.destination)
        tag.unlink(missing_ok=True)

    def _transfer(self, part: Path, tag: Path) -> None:
        """Append to ``part`` from where it ends; start over if the server's file changed or it cannot resume."""
        have = part.stat().st_size if part.is_file() else 0
        guard = tag.read_text() if tag.is_file() else ""
        headers = {"Range": f"bytes={have}-", "If-Range": guard} if have and guard else {}
        with urllib.request.urlopen(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT) as answer:
            resumed, given = getattr(answer, "status", 200) == 206, answer.headers.get("Content-Range", "")
            if resumed and not (headers and given.startswith(f"bytes {have}-")):
                part.unlink(missing_ok=True)
                raise ConnectionError(f"the server sent the part {given!r}, which was not asked for; starting over")
            validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            tag.write_text("" if validator.startswith("W/") else validator)
            length = answer.headers.get("Content-Length")
            # Without a length, the end of the connection looks the same whether the file is whole or cut off.
            if length is None and not getattr(answer, "chunked", False) and self.expected is None:
                cure = f"it may be cut off. Put it in the folder that {paths.MIRROR_VARIABLE} names, by other means"
                raise DownloadError(f"expected a length of {self.url} (hash not known yet), found none: {cure}")
            at = have if resumed else 0
            size = None if length is None else int(length) + at
            bar = tqdm(total=size, initial=at, unit="B", unit_scale=True, leave=False, disable=self.quiet)
            with part.open("ab" if resumed else "wb") as file, bar:
                while block := answer.read(1 << 16):
                    bar.update(file.write(block))
            if size is not None and (done := part.stat().st_size) < size:
                raise ConnectionError(f"the connection ended after {done} of {size} bytes")
