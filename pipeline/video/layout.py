"""Which files are videos, what their class is, and which group they belong to.

A group is a set of clips that share actor, place and camera, often cut from one recording. Clips of one group look
alike, so a fair test keeps whole groups on one side.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline import records

UCF11 = {
    "basketball": "v_shooting",
    "biking": "v_biking",
    "diving": "v_diving",
    "golf_swing": "v_golf",
    "horse_riding": "v_riding",
    "soccer_juggling": "v_juggle",
    "swing": "v_swing",
    "tennis_swing": "v_tennis",
    "trampoline_jumping": "v_jumping",
    "volleyball_spiking": "v_spiking",
    "walking": "v_walk_dog",
}
"""The classes (folders) of UCF-11 and the prefix of their clips: they differ."""
UCF11_GROUP = re.compile(r"_(\d+)_\d+$")
"""``v_shooting_01_03`` is the third clip of group 01."""
SUFFIXES = frozenset(
    ".avi .flv .gif .m2v .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split()  # noqa: SIM905
)
_FIELDS = ["path", "class", "group"]


class LayoutError(ValueError):
    """A tree of videos that does not follow the expected layout."""


@dataclass(frozen=True, order=True)
class Video:
    """One video file.

    Attributes:
        path: place below the root of the videos, with ``/``.
        class_name: what it shows.
        group: which recording it comes from; equal names in two classes are two groups.
    """

    path: str
    class_name: str
    group: str

    @property
    def video_id(self) -> str:
        """The path without its suffix."""
        return str(PurePosixPath(self.path).with_suffix(""))


def is_video(path: PurePosixPath) -> bool:
    """Return whether the name is one of a video that is not hidden and not beside annotations."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    notes = any(part.lower().startswith("annotation") for part in path.parts[:-1])
    return path.suffix.lower() in SUFFIXES and not hidden and not notes


def ucf11_place(name: str) -> PurePosixPath | None:
    """Return ``class/group/clip`` of a file in UCF-11, whatever folders its archive has above; ``None``: not a clip.

    Args:
        name: the file's path in the archive or folder.
    """
    path = PurePosixPath(name)
    if not is_video(path) or len(path.parts) < 3:
        return None
    found = PurePosixPath(*path.parts[-3:])
    return found if found.parts[0] in UCF11 else None


def ucf11_video(place: PurePosixPath) -> Video:
    """Return the video at ``class/group/clip``; its group is the first number of the clip's name.

    Raises:
        LayoutError: neither the clip's name nor its folder's has a number.
    """
    found = UCF11_GROUP.search(place.stem) or re.search(r"(\d+)$", place.parent.name)
    if found is None:
        raise LayoutError(f"expected a clip named like v_shooting_01_03.mpg, found {place}; rename it, or remove it")
    return Video(str(place), place.parts[0], found[1])


def folder_video(place: PurePosixPath, pattern: str) -> Video:
    """Return the video at ``class/group/clip``, or at ``class/clip`` with its group by ``pattern``.

    Args:
        place: path below the root.
        pattern: regular expression; its first group, found in the clip's stem, names the clip's group.

    Raises:
        LayoutError: another depth, the pattern is none, has no group, or does not match.
    """
    try:
        rule = re.compile(pattern)
    except re.error as error:
        raise LayoutError(f"expected a regular expression as group_pattern, found {pattern!r} ({error})") from error
    if rule.groups < 1:
        raise LayoutError(f"expected a group (…) in group_pattern, found none in {pattern!r}")
    if len(place.parts) == 3:
        return Video(str(place), place.parts[0], place.parts[1])
    if len(place.parts) != 2:
        raise LayoutError(f"expected class/clip or class/group/clip, found {place}")
    found = rule.search(place.stem)
    if found is None or not found[1]:
        raise LayoutError(
            f"expected the clip's name to match group_pattern {pattern!r}, found {place}; change the pattern, or put "
            "the clips of each recording in a folder of their own (class/group/clip)"
        )
    return Video(str(place), place.parts[0], found[1])


def files_below(root: Path) -> list[PurePosixPath]:
    """Return all files below ``root``, sorted, as paths relative to it.

    Raises:
        FileNotFoundError: no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder with videos at {root}, found none")
    return sorted(PurePosixPath(file.relative_to(root).as_posix()) for file in root.rglob("*") if file.is_file())


def check(videos: Iterable[Video]) -> list[Video]:
    """Return the videos sorted.

    Raises:
        LayoutError: there are none, or two differ in nothing but their suffix.
    """
    ordered = sorted(videos)
    if not ordered:
        raise LayoutError("expected at least one video, found none; see the README for the layouts that are understood")
    seen: dict[str, str] = {}
    for video in ordered:
        if video.video_id in seen:
            raise LayoutError(f"expected one file per video, found {seen[video.video_id]} and {video.path}; rename one")
        seen[video.video_id] = video.path
    return ordered


def save(videos: list[Video], destination: Path) -> None:
    """Write the list of videos as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    writer.writerows((each.path, each.class_name, each.group) for each in videos)
    records.write_text(destination, text.getvalue())


def load(source: Path) -> list[Video]:
    """Read the list that :func:`save` wrote.

    Raises:
        FileNotFoundError: no such file.
        LayoutError: no such table, other columns, or a path that leads out of the folder.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected the list of videos at {source}, found none; run `dvc repro acquire@video`")
    try:
        rows = list(csv.reader(io.StringIO(source.read_text(encoding="utf-8"))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise LayoutError(
            f"expected the list of videos in {source}, found damage ({error}); run `dvc repro -f acquire@video`"
        ) from error
    if not rows or rows[0] != _FIELDS or any(len(row) != len(_FIELDS) for row in rows):
        raise LayoutError(f"expected columns {_FIELDS} in {source}, found others; run `dvc repro acquire@video`")
    videos = [Video(*row) for row in rows[1:]]
    for video in videos:
        path = PurePosixPath(video.path)
        if path.is_absolute() or ".." in path.parts:
            raise LayoutError(f"expected paths below the folder of videos in {source}, found {video.path!r}")
    return check(videos)
