"""Unpacking archives that somebody else made: nothing lands outside the folder, and an interruption costs one file.

ZIP is read by Python itself. RAR is read by the package rarfile: members that are merely stored need nothing else,
compressed ones need one of the programs ``unrar``, ``unar``, ``bsdtar`` or ``7z``.
"""

import stat
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import rarfile
from tqdm import tqdm

from pipeline.common import records

Place = Callable[[str], PurePosixPath | None]
"""Says where a member of this name goes below the folder, ``None`` for nowhere."""
# What an archive may hold at most; a larger one is refused before anything is written.
MEMBERS = 100_000
TOTAL = 50 << 30  # bytes of all chosen files, unpacked
RATIO = 200  # unpacked bytes per packed byte of any chosen file above 1 MiB (videos hardly compress)


class ArchiveError(ValueError):
    """An archive that is damaged, hostile, or cannot be read on this machine."""


class DamagedError(ArchiveError):
    """An archive of which another copy may be sound."""


def check(source: Path, place: Place) -> None:
    """Check that a file is an archive with something to unpack, from its list of members alone, else ArchiveError."""
    with _opened(source) as archive:
        if not any(place(member.filename) for member in archive.infolist() if not member.is_dir()):
            raise ArchiveError(f"expected an archive of videos, found none in {source.name}")


def unpack(source: Path, destination: Path, place: Place) -> list[PurePosixPath]:
    """Unpack the chosen members, but those that are there already with the right sum; return the places of all, sorted.

    Another kind of file, damage, a path that leads out of the folder, a link, two members in one place, more than there
    may be, a password, and no program to unpack RAR are an ``ArchiveError``.
    """
    with _opened(source) as archive:
        chosen = _choose(source, archive, place)
        missing = {m.filename: destination / path for path, m in chosen.items() if not _is_there(destination / path, m)}
        with tqdm(total=len(missing), desc=f"unpack {source.name}", mininterval=1) as bar:
            for member, stream in _streams(source, archive, missing):
                _write(member, stream, missing[member.filename])
                bar.update()
    return sorted(chosen)


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    """Yield a RarFile or a ZipFile, alike in what is used here; what they raise becomes errors of this module."""
    if not source.is_file():
        raise FileNotFoundError(f"expected an archive at {source}, found none")
    is_rar = rarfile.is_rarfile(source)
    if not is_rar and not zipfile.is_zipfile(source):
        raise ArchiveError(f"expected a RAR or ZIP archive, found {source.name}, which is neither; fetch it again")
    try:
        with rarfile.RarFile(source) if is_rar else zipfile.ZipFile(source) as archive:
            yield archive
    except rarfile.RarCannotExec as error:
        raise ArchiveError(
            "expected a program that unpacks compressed RAR files (unrar, unar, bsdtar or 7z) on the PATH, found none; "
            "install one (Debian, Ubuntu: apt install libarchive-tools; macOS: brew install libarchive), or unpack "
            f"{source.name} yourself and name the folder as source"
        ) from error
    except (rarfile.Error, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(
            f"expected a sound archive, found {source.name} damaged or protected ({error}); fetch it again"
        ) from error


def _choose(source: Path, archive: Any, place: Place) -> dict[PurePosixPath, Any]:  # noqa: ANN401
    """Return the wanted members by place, none of which can do harm."""
    members, chosen = archive.infolist(), dict[PurePosixPath, Any]()

    def demand(sound: bool, expected: str, found: object) -> None:
        if not sound:
            raise ArchiveError(f"expected {expected} in {source.name}, found {found}: refused")

    demand(len(members) <= MEMBERS, f"at most {MEMBERS} files", len(members))
    for member in members:
        name, is_zip = member.filename, isinstance(member, zipfile.ZipInfo)
        link = stat.S_ISLNK(member.external_attr >> 16) if is_zip else member.is_symlink() or member.file_redir
        demand(not _escapes(name), "paths inside the archive", repr(name))
        demand(not link, "no links", repr(name))
        if member.is_dir() or (path := place(name)) is None:
            continue
        demand(not _escapes(str(path)), "places inside the folder", f"{path} for {name!r}")
        demand(path not in chosen, f"one file for {path}", f"{name!r} as well")
        size, packed = member.file_size, member.compress_size
        demand(size <= max(1 << 20, RATIO * packed), "videos", f"{name!r}: {packed} bytes that unpack to {size}")
        chosen[path] = member
    total = sum(member.file_size for member in chosen.values())
    demand(total <= TOTAL, f"at most {TOTAL} bytes unpacked", total)
    return chosen


def _escapes(name: str) -> bool:
    """Whether a name is absolute, climbs out of its folder, or names a drive or a device."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name


def _is_there(target: Path, member: Any) -> bool:  # noqa: ANN401
    """Whether a member was unpacked before; one without a sum that could tell is unpacked again."""
    if member.CRC is None or not target.is_file() or target.is_symlink() or target.stat().st_size != member.file_size:
        return False
    with target.open("rb") as file:
        return bool(_sum_of(file, member.file_size) == member.CRC)


def _sum_of(stream: IO[bytes], size: int, copy: IO[bytes] | None = None) -> int | None:
    """Read ``size`` bytes, and never more, to a copy or to nowhere; return their CRC, ``None`` if there are fewer."""
    crc = 0
    while size and (block := stream.read(min(1 << 20, size))):
        size, crc = size - len(block), zlib.crc32(block, crc)
        if copy is not None:
            copy.write(block)
    return None if size else crc


def _streams(source: Path, archive: Any, missing: dict[str, Path]) -> Iterator[tuple[Any, IO[bytes]]]:  # noqa: ANN401
    """Yield the wanted members with a stream of which just as many bytes must be read as they claim to have.

    One at a time, members of a solid archive would cost the square of their number: a program writes them all at once.
    """
    if not (missing and isinstance(archive, rarfile.RarFile) and archive.is_solid()):
        for member in archive.infolist():
            if member.filename in missing:
                with archive.open(member) as stream:
                    yield member, stream
        return
    command = rarfile.tool_setup().open_cmdline(None, str(source))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        output = cast("IO[bytes]", run.stdout)
        try:
            for member in archive.infolist():
                if member.filename in missing:
                    yield member, output
                else:
                    _sum_of(output, member.file_size)
        finally:
            run.kill()


def _write(member: Any, stream: IO[bytes], target: Path) -> None:  # noqa: ANN401
    """Write a member, whole and with the sum that it claims, or not at all."""
    with records.atomic_path(target) as temporary:
        with temporary.open("wb") as file:
            crc = _sum_of(stream, member.file_size, file)
        if crc is None or member.CRC not in (None, crc):
            raise zipfile.BadZipFile(f"wrong checksum of {member.filename!r}")  # which _opened explains
