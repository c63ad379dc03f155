"""Unpacking archives that somebody else made: nothing lands outside the folder, and an interruption costs one file.

ZIP is read by Python itself. RAR is read by the package rarfile: members that are merely stored need nothing else,
compressed ones need one of the programs ``unrar``, ``unar``, ``bsdtar`` or ``7z``.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import rarfile
from tqdm import tqdm

from pipeline import records

_BLOCK = 1 << 20
_NO_PROGRAM = (
    "expected a program that unpacks compressed RAR files (unrar, unar, bsdtar or 7z) on the PATH, found none; install "
    "one (Debian, Ubuntu: apt install libarchive-tools; macOS: brew install libarchive), or unpack {source} yourself "
    "and name the folder as source"
)


class ArchiveError(ValueError):
    """An archive that is damaged, hostile, or cannot be read on this machine."""


class DamagedError(ArchiveError):
    """An archive that is damaged: another copy of it may be sound."""


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most; a larger one is refused before anything is written.

    Attributes:
        members: files.
        total: bytes of all chosen files, unpacked.
        ratio: unpacked bytes per packed byte of any chosen file above 1 MiB (videos hardly compress).
    """

    members: int = 100_000
    total: int = 50 << 30
    ratio: int = 200


class Readable(Protocol):
    """Something to read bytes from."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes, none at the end."""


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    packed: int
    crc: int | None
    is_link: bool
    is_folder: bool
    info: Any


def check(source: Path, place: Callable[[str], PurePosixPath | None]) -> None:
    """Check that a file is an archive with something to unpack, from its list of members alone.

    Args:
        source: the file.
        place: as in :func:`unpack`.

    Raises:
        ArchiveError: it is not.
    """
    with _sound(source), _opened(source) as archive:
        if not any(place(member.name) for member in _members(archive) if not member.is_folder):
            raise ArchiveError(f"expected an archive of videos, found none in {source.name}")


def unpack(
    source: Path,
    destination: Path,
    place: Callable[[str], PurePosixPath | None],
    limits: Limits = Limits(),
) -> list[PurePosixPath]:
    """Unpack chosen members of a ZIP or RAR file and return their places, sorted.

    Members that are there already with the right size and checksum are left alone, so unpacking resumes.

    Args:
        source: the archive; its content, not its name, says which kind it is.
        destination: the folder.
        place: where a member goes below ``destination``; ``None`` leaves it out.
        limits: what to accept.

    Raises:
        ArchiveError: no archive, damage, a path that leads out of the folder, a link, two members in one place, more
            than ``limits`` allow, a password, or no program to unpack RAR.
    """
    with _sound(source), _opened(source) as archive:
        members = _members(archive)
        chosen = _choose(source, members, place, limits)
        missing = {m.name: destination / p for p, m in chosen.items() if not _is_there(destination / p, m)}
        packed = _in_one_pass if missing and _is_solid(archive) else _one_by_one
        with tqdm(total=len(missing), desc=f"unpack {source.name}", mininterval=1) as bar:
            for member, stream in packed(source, archive, members, missing):
                _write(source, member, stream, missing[member.name])
                bar.update()
    return sorted(chosen)


@contextmanager
def _sound(source: Path) -> Iterator[None]:
    """Turn what the archive libraries raise into errors of this module."""
    try:
        yield
    except rarfile.RarCannotExec as error:
        raise ArchiveError(_NO_PROGRAM.format(source=source.name)) from error
    except (rarfile.Error, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedError(
            f"expected a sound archive, found {source.name} damaged or protected ({error}); fetch it again"
        ) from error


def _opened(source: Path) -> AbstractContextManager[Any]:
    if not source.is_file():
        raise FileNotFoundError(f"expected an archive at {source}, found none")
    if rarfile.is_rarfile(source):
        return rarfile.RarFile(source)  # type: ignore[no-any-return]
    if zipfile.is_zipfile(source):
        return zipfile.ZipFile(source)
    raise ArchiveError(f"expected a RAR or ZIP archive, found {source.name}, which is neither; fetch it again")


def _members(archive: Any) -> list[_Member]:  # noqa: ANN401 - RarFile or ZipFile, alike in what is used here
    found = []
    for info in archive.infolist():
        if isinstance(info, zipfile.ZipInfo):
            link = stat.S_ISLNK(info.external_attr >> 16)
        else:
            link = info.is_symlink() or bool(getattr(info, "file_redir", None))
        found.append(
            _Member(
                info.filename,
                info.file_size,
                info.compress_size,
                info.CRC,
                link,
                info.is_dir(),
                info,
            )
        )
    return found


def _choose(
    source: Path, members: list[_Member], place: Callable[[str], PurePosixPath | None], limits: Limits
) -> dict[PurePosixPath, _Member]:
    if len(members) > limits.members:
        raise ArchiveError(f"expected at most {limits.members} files in {source.name}, found {len(members)}")
    chosen: dict[PurePosixPath, _Member] = {}
    for member in members:
        if _escapes(member.name):
            raise ArchiveError(f"expected paths inside the archive, found {member.name!r} in {source.name}: refused")
        if member.is_link:
            raise ArchiveError(f"expected no links, found {member.name!r} in {source.name}: refused")
        path = None if member.is_folder else place(member.name)
        if path is None:
            continue
        if _escapes(str(path)):
            raise ArchiveError(f"expected a place inside the folder, found {path} for {member.name!r}: refused")
        if path in chosen:
            raise ArchiveError(f"expected one file for {path}, found {chosen[path].name!r} and {member.name!r}")
        if member.size > max(1 << 20, limits.ratio * member.packed):
            raise ArchiveError(f"expected videos, found {member.name!r}: {member.packed} bytes that unpack to "
                               f"{member.size}: refused")  # fmt: skip
        chosen[path] = member
    total = sum(member.size for member in chosen.values())
    if total > limits.total:
        raise ArchiveError(f"expected at most {limits.total} bytes unpacked from {source.name}, found {total}: refused")
    return chosen


def _escapes(name: str) -> bool:
    """Whether a name is absolute, climbs out of its folder, or names a drive or a device."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0] or "\0" in name


def _crc_of(source: Path) -> int:
    crc = 0
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def _is_there(target: Path, member: _Member) -> bool:
    """Whether a member was unpacked before; one without a sum that could tell is unpacked again."""
    if not target.is_file() or target.is_symlink() or target.stat().st_size != member.size:
        return False
    return member.crc is not None and member.crc == _crc_of(target)


def _is_solid(archive: Any) -> bool:  # noqa: ANN401
    """Whether members can only be unpacked in order, so that one at a time costs the square of their number."""
    return isinstance(archive, rarfile.RarFile) and bool(archive.is_solid())


def _one_by_one(
    source: Path,
    archive: Any,  # noqa: ANN401
    members: list[_Member],
    missing: dict[str, Path],
) -> Iterator[tuple[_Member, Readable]]:
    for member in members:
        if member.name in missing:
            with archive.open(member.info) as stream:
                yield member, stream


def _in_one_pass(
    source: Path,
    archive: Any,  # noqa: ANN401
    members: list[_Member],
    missing: dict[str, Path],
) -> Iterator[tuple[_Member, Readable]]:
    """Have the program write all members to its output, one after another, and cut that at the members' sizes."""
    command = rarfile.tool_setup().open_cmdline(None, str(source))
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        output = run.stdout
        if output is None:
            raise ArchiveError(f"expected output from {command[0]}, found none")
        try:
            for member in members:
                part = _Part(output, member.size)
                if member.name in missing:
                    yield member, part
                while part.read(_BLOCK):
                    pass
        finally:
            run.kill()


class _Part:
    """The next ``size`` bytes of a stream, as a file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.left = stream, size

    def read(self, size: int) -> bytes:
        block = self.stream.read(min(size, self.left))
        self.left -= len(block)
        return block


def _write(source: Path, member: _Member, stream: Readable, target: Path) -> None:
    with records.atomic_path(target) as temporary:
        with temporary.open("wb") as file:
            _copy(stream, file, member)
        if temporary.stat().st_size != member.size or member.crc not in (None, _crc_of(temporary)):
            raise DamagedError(f"expected the checksum of {member.name!r} to hold, found damage in {source.name}; "
                               "fetch it again")  # fmt: skip


def _copy(packed: Readable, file: IO[bytes], member: _Member) -> None:
    """Copy, but never more than the member claims: a forged size must not fill the disk."""
    left = member.size
    while block := packed.read(min(_BLOCK, left + 1)):
        left -= len(block)
        if left < 0:
            raise ArchiveError(f"expected {member.size} bytes in {member.name!r}, found more: refused")
        file.write(block)


def copy(source: Path, destination: Path) -> None:
    """Copy a file's content, not its owner, dates or links, atomically; a copy of the same size and sum is kept."""
    same = destination.is_file() and destination.stat().st_size == source.stat().st_size
    if same and records.sha256_of(destination) == records.sha256_of(source):
        return
    with records.atomic_path(destination) as temporary:
        shutil.copyfile(source, temporary)
