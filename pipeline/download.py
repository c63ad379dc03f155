"""Fetching files: the local mirror first, then the network; resumable; nothing is used without a SHA-256.

A file whose hash is known must match it. A file whose hash nobody published is trusted on first use, if it is what it
should be at all: its hash is written to a lock file, and every later fetch must match that.
"""

from __future__ import annotations

import http.client
import os
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline import paths, records

ATTEMPTS = 5
"""Tries per download; each goes on where the last one stopped."""
TIMEOUT = 30
"""Seconds without a byte before a try counts as failed."""
_BLOCK = 1 << 16


class DownloadError(OSError):
    """A file that could not be had; the message names URL, hash and remedy."""


@dataclass(frozen=True)
class Provenance:
    """Where a file came from.

    Attributes:
        origin: ``mirror``, ``network`` or ``present`` (it was there already).
        url: the public address of the file.
        sha256: its hash.
        trusted_on_first_use: whether the hash was first learnt from the file itself.
    """

    origin: str
    url: str
    sha256: str
    trusted_on_first_use: bool

    def as_dict(self) -> dict[str, str | bool]:
        """Return a plain mapping, for JSON; the origin is left out, since equal files make equal records."""
        return {key: value for key, value in asdict(self).items() if key != "origin"}


def fetch(
    url: str,
    destination: Path,
    *,
    sha256: str | None,
    mirror_path: str | None = None,
    lock: Path | None = None,
    accept: Callable[[Path], None] | None = None,
    pause: float = 1.0,
) -> Provenance:
    """Put the file at ``url`` at ``destination``.

    Args:
        url: an ``http``, ``https`` or ``file`` address.
        destination: where the file shall be; a correct file there is left alone.
        sha256: its hash; ``None`` trusts on first use and needs ``lock``.
        mirror_path: its place inside the mirror folder, if it may be there.
        lock: JSON file of trusted hashes by URL.
        accept: raises ``ValueError`` for a file that cannot be the one wanted, such as a portal's page. It is asked
            before a file is trusted on first use, and about trusted ones too: an older lock may hold a page's hash.
        pause: seconds to wait before the second try; doubled each time.

    Raises:
        DownloadError: the file cannot be had, or is not the expected one.
        ValueError: neither a hash nor a lock, or another kind of address.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise ValueError(f"expected an http, https or file address, found {url!r}")
    known: dict[str, str] = {}
    if sha256 is None:
        if lock is None:
            raise ValueError(f"expected a SHA-256 or a lock file for {url}, found neither")
        known = records.read_json(lock) if lock.is_file() else {}
        expected = known.get(url)
    else:
        expected = sha256
    origin = _place(url, destination, expected, mirror_path, pause)
    found = records.sha256_of(destination)
    if expected is not None and found != expected:
        looks = _describe(destination)
        destination.unlink()
        remedy = "check it and update the hash" if lock is None else f"check it and remove the address from {lock}"
        raise DownloadError(
            f"expected SHA-256 {expected} for {url}, found {found} ({looks}, from the {origin}); the file was removed. "
            f"Try again; if it persists, the source changed: {remedy}"
        )
    if accept is not None:
        try:
            accept(destination)
        except ValueError as error:
            looks = _describe(destination)
            if lock is not None:
                forget(url, destination, lock)
            destination.unlink(missing_ok=True)
            raise DownloadError(
                f"expected the file at {url}, found {looks} ({origin}): {error}. It was removed and its hash is not "
                "trusted; try again, from a network without a portal"
            ) from error
    if expected is None and lock is not None:
        records.write_json(lock, {**known, url: found})
    return Provenance(origin, url, found, sha256 is None)


def forget(url: str, destination: Path, lock: Path) -> None:
    """Remove a file that turned out to be damaged, and with it the trust that it won when it was first used."""
    destination.unlink(missing_ok=True)
    if lock.is_file():
        records.write_json(lock, {known: sha256 for known, sha256 in records.read_json(lock).items() if known != url})


def _describe(file: Path) -> str:
    """What a file is that should be another one, as far as its beginning tells."""
    with file.open("rb") as content:
        begin = content.read(512)
    if begin.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return f"an HTML page of {file.stat().st_size} bytes, such as a portal or a server's error serves"
    return f"{file.stat().st_size} bytes that begin with {begin[:12]!r}"


def _place(url: str, destination: Path, expected: str | None, mirror_path: str | None, pause: float) -> str:
    if destination.is_file() and expected is not None and records.sha256_of(destination) == expected:
        return "present"
    folder = paths.mirror()
    if folder is not None and mirror_path is not None and (folder / mirror_path).is_file():
        with records.atomic_path(destination) as temporary:
            shutil.copyfile(folder / mirror_path, temporary)
        return "mirror"
    _download(url, destination, expected, pause, mirror_path)
    return "network"


def _download(url: str, destination: Path, expected: str | None, pause: float, mirror_path: str | None) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    part = destination.with_name(destination.name + ".part")
    tag = destination.with_name(destination.name + ".part.tag")
    for attempt in range(ATTEMPTS):
        try:
            _transfer(url, part, tag, expected is not None)
            break
        except DownloadError:
            raise
        except (OSError, http.client.HTTPException) as error:
            final = isinstance(error, urllib.error.HTTPError) and error.code in (401, 403, 404, 410)
            if attempt + 1 == ATTEMPTS or final:
                place = (
                    f", or put it at {mirror_path} in the folder that {paths.MIRROR_VARIABLE} names"
                    if mirror_path
                    else ""
                )
                raise DownloadError(
                    f"expected to download {url} (SHA-256 {expected or 'not known yet'}), found: {error}. "
                    f"Check the network and run again (it resumes){place}"
                ) from error
            time.sleep(pause * 2**attempt)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(destination)
    tag.unlink(missing_ok=True)


def _transfer(url: str, part: Path, tag: Path, verified: bool) -> None:
    """Append to ``part`` from where it ends; start over if the server's file changed or it cannot resume.

    ``verified`` says that a hash will be compared afterwards. Without one, only an answer that says where it ends is
    taken: a plain close of the connection looks the same whether the file is whole or cut off.
    """
    have = part.stat().st_size if part.is_file() else 0
    guard = tag.read_text() if tag.is_file() else ""
    request = urllib.request.Request(url)
    asked = bool(have and guard)
    if asked:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", guard)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()
        raise ConnectionError("the server has fewer bytes than the partial file; starting over") from error
    with answer:
        resumed = getattr(answer, "status", 200) == 206
        given = answer.headers.get("Content-Range", "")
        if resumed and not (asked and given.startswith(f"bytes {have}-")):
            part.unlink(missing_ok=True)
            wanted = f"bytes from {have} on" if asked else "the whole file"
            raise ConnectionError(f"the server sent the part {given!r} where {wanted} was asked for; starting over")
        validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        tag.write_text("" if validator.startswith("W/") else validator)
        length = answer.headers.get("Content-Length")
        if length is None and not getattr(answer, "chunked", False) and not verified:
            raise DownloadError(
                f"expected {url} with its length, since its hash is not known yet, found an answer that just ends: it "
                "may be cut off. Get the file by other means, check it, and put it in the folder that "
                f"{paths.MIRROR_VARIABLE} names"
            )
        total = None if length is None else int(length) + (have if resumed else 0)
        done = have if resumed else 0
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=part.stem, leave=False) as bar,
        ):
            while block := answer.read(_BLOCK):
                file.write(block)
                done += len(block)
                bar.update(len(block))
        if total is not None and done < total:
            raise ConnectionError(f"the connection ended after {done} of {total} bytes")
