"""The list of acquired videos: file, class, and group of each.

A group is a set of videos that share actor, place and camera, often cut from one recording. Videos of one group look
alike, so a fair test keeps whole groups on one side.
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.common import paths, records

CLIPS = paths.raw("video") / "videos"  # absent where sequences of features were acquired
SEQUENCES = paths.raw("video") / "sequences.parquet"  # absent where videos were acquired
INDEX = paths.raw("video") / "index.csv"  # lists either
SUFFIXES = {f".{name}" for name in "avi flv gif m2v m4v mkv mov mp4 mpeg mpg ogv ts webm wmv".split()}  # noqa: SIM905
_FIELDS = ["path", "class", "group"]


class LayoutError(ValueError):
    """A tree or table of videos that does not follow the expected layout."""


@dataclass(frozen=True, order=True)
class Video:
    """One video: a file, or a sequence of features."""

    path: str  # below the root of the videos, with /; of a sequence class/group/video
    class_name: str
    group: str  # equal names in two classes are two groups

    @property
    def video_id(self) -> str:
        """The path without the suffix of a video's file."""
        path = PurePosixPath(self.path)
        return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else self.path


def check(videos: Iterable[Video]) -> list[Video]:
    """Return the videos sorted; a ``LayoutError`` if there are none, or two differ in nothing but their suffix."""
    ordered, by_id = sorted(videos), dict[str, Video]()
    if not ordered:
        raise LayoutError("expected at least one video, found none; see the README for the layouts that are understood")
    for video in ordered:
        if (other := by_id.setdefault(video.video_id, video)) is not video:
            raise LayoutError(f"expected one file per video, found {other.path} and {video.path}; rename one")
    return ordered


def save(videos: Iterable[Video], destination: Path) -> None:
    """Write the list of videos as CSV."""
    text = io.StringIO()
    rows = ((video.path, video.class_name, video.group) for video in videos)
    csv.writer(text, lineterminator="\n").writerows([_FIELDS, *rows])
    records.write_text(destination, text.getvalue())


def load(source: Path) -> list[Video]:
    """Read the list that :func:`save` wrote; a ``LayoutError`` if it has other columns, or paths out of the folder."""
    cure = "run `dvc repro -f acquire@video`"
    if not source.is_file():
        raise FileNotFoundError(f"expected the list of videos at {source}, found none; {cure}")
    try:
        head, *rows = csv.reader(io.StringIO(source.read_text(encoding="utf-8")))
        if head != _FIELDS or any(len(row) != len(_FIELDS) for row in rows):
            raise ValueError(f"other columns than {', '.join(_FIELDS)}")
        if any(path.startswith("/") or ".." in path.split("/") for path, *_ in rows):
            raise ValueError("paths that lead out of the folder of videos")
    except (csv.Error, ValueError) as error:
        raise LayoutError(f"expected the list of videos in {source}, found damage: {error}; {cure}") from error
    return check(Video(*row) for row in rows)
