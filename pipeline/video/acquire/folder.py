"""Anybody's videos: ``class/group/clip``, or ``class/clip`` where the clip's name says its group."""

import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from pipeline.common import records
from pipeline.video import layout
from pipeline.video.layout import LayoutError, Video

SPLITS = frozenset("train training val valid validation dev eval test testing".split())  # noqa: SIM905
"""Folders that people keep the sides of a split in."""
_ROOT = "the folder in which the folders of the classes lie"


@dataclass(frozen=True)
class Acquired:
    """What a source put into the staging folder: its videos, their provenance, and what a person should look at."""

    videos: list[Video]
    record: dict[str, object]
    warnings: list[str] = field(default_factory=list)


def acquire(staging: Path, root: str | None, pattern: str) -> Acquired:
    """Copy the videos below ``root``, their groups by folder or ``pattern``; everything is checked first."""
    if root is None:
        raise FileNotFoundError("expected video.acquire.folder with source folder, found none; name your folder there")
    source = Path(root)
    names = files_below(source)
    videos = videos_at([name for name in names if is_video(name) and (source / name).is_file()], pattern)
    warnings = check(videos, pattern)
    files = {video: source / video.path for video in videos}
    sizes = Counter(file.stat().st_size for file in files.values())
    twins = {video: file for video, file in files.items() if sizes[file.stat().st_size] > 1}
    warnings += check_copies({video: records.sha256_of(file) for video, file in twins.items()})
    copy(files, staging)
    return Acquired(videos, {"folder": source.name, "files_ignored": len(names) - len(videos)}, warnings)


def is_video(path: PurePosixPath) -> bool:
    """Return whether the name is one of a video that is not hidden and not beside annotations."""
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    notes = any(part.lower().startswith("annotation") for part in path.parts[:-1])
    return path.suffix.lower() in layout.SUFFIXES and not hidden and not notes


def files_below(root: Path) -> list[PurePosixPath]:
    """Return all that is below a folder and is none, sorted, relative to it; links are followed."""
    if not root.is_dir():
        raise FileNotFoundError(f"expected a folder at {root}, found none; correct the path")
    files, folders = list[Path](), [(root, {root.resolve()})]
    for folder, above in folders:
        for entry in folder.iterdir():
            if not entry.is_dir():
                files.append(entry)
            elif (place := entry.resolve()) not in above:  # a link to a folder that it is in would never end
                folders.append((entry, {*above, place}))
    return sorted(PurePosixPath(file.relative_to(root).as_posix()) for file in files)


def copy(files: Mapping[Video, Path], staging: Path) -> None:
    """Copy the content of videos to their places below ``staging/videos``."""
    for video, file in tqdm(files.items(), desc="copy videos", mininterval=1):
        target = staging / layout.CLIPS.name / video.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def videos_at(places: list[PurePosixPath], pattern: str) -> list[Video]:
    """Return the videos at ``class/group/clip``, or at ``class/clip`` with their groups by ``pattern``, sorted.

    The first group of that regular expression, found in the clip's stem, names the clip's group. Other depths or names,
    or the sides of a split in place of classes or groups, are a ``LayoutError``.
    """
    for depth, what in enumerate(("classes", "groups")):
        names = {place.parts[depth] for place in places if len(place.parts) > depth + 1}
        sides = sorted(name for name in names if name.lower() in SPLITS)
        if len(sides) > 1 or (sides and len(names) == 1):
            raise LayoutError(
                f"expected folders of {what}, found {', '.join(sides)}, the sides of a split. Stage clips makes the "
                "splits: put the classes of all sides into one folder, or name the folder of one side"
            )
    groups = dict[PurePosixPath, str]()
    for place in places:
        if len(place.parts) == 3:
            groups[place] = place.parts[1]
        elif len(place.parts) == 2 and (named := re.search(pattern, place.stem)) and named[1]:
            groups[place] = named[1]
    if faults := [str(place) for place in places if place not in groups]:
        raise LayoutError(
            f"expected class/group/clip, or class/clip with a name that video.acquire.group_pattern ({pattern!r}) "
            f"matches, found {len(faults)} other(s), such as {', '.join(faults[:10])}. Name {_ROOT}; change the "
            "pattern, or put each recording's clips in a folder of their own"
        )
    return layout.check(Video(str(place), place.parts[0], group) for place, group in groups.items())


def check(videos: list[Video], pattern: str) -> list[str]:
    """Return warnings about classes and groups (:func:`check_groups`), and about groups that come from names."""
    warnings = check_groups(videos)
    named = [(video, re.search(pattern, PurePosixPath(video.path).stem)) for video in videos]
    named = [(video, match) for video, match in named if video.path.count("/") == 1]
    sizes = Counter((video.class_name, video.group) for video, _ in named)
    examples = "; ".join(f"{video.path} is in group {video.group}" for video, _ in named[:3])
    if named and max(sizes.values()) == 1:
        return [*warnings, f"video.acquire.group_pattern makes every clip a group of its own: {examples}"]
    # A number at the end that starts again for each name before it counts the cuts of one film.
    last = {(video.class_name, match.string[: match.start(1)], video.group) for video, match in named
            if match is not None and match.end(1) == len(match.string)}  # fmt: skip
    films, groups = {(kind, film) for kind, film, _ in last}, {(kind, group) for kind, _, group in last}
    if max(len(films), len(groups)) < len(last):
        warnings.append(f"video.acquire.group_pattern seems to take the number of a cut for the group: {examples}")
    return warnings


def check_groups(videos: Iterable[Video]) -> list[str]:
    """Return a warning about classes with one group; a ``LayoutError`` if nothing can be told apart, or tested on."""
    pairs = {(video.class_name, video.group) for video in videos}
    groups = Counter(class_name for class_name, _ in pairs)
    if len(groups) < 2 or max(groups.values()) < 2:
        raise LayoutError(
            f"expected at least two classes, and two groups in a class, found {len(groups)} class(es), {len(pairs)} "
            f"group(s): {', '.join(sorted(f'{name}/{group}' for name, group in pairs)[:5])}. Name {_ROOT}; groups are "
            "set by folders below them, or by video.acquire.group_pattern"
        )
    alone = ", ".join(sorted(name for name, count in groups.items() if count < 2)[:3])
    return [f"no split by group for classes with one group, such as {alone}"] if alone else []


def check_copies(contents: Mapping[Video, object]) -> list[str]:
    """Return a warning about equal videos in two groups, by digests of their content; in two classes a LayoutError."""
    copies = defaultdict[object, list[Video]](list)
    for video in sorted(contents):
        copies[contents[video]].append(video)

    def pairs(of: Callable[[Video], str]) -> list[str]:
        return [f"{same[0].path} = {same[-1].path}" for same in copies.values() if len(set(map(of, same))) > 1]

    if apart := pairs(lambda video: video.class_name):
        raise LayoutError(
            f"expected each video in one class, found {len(apart)} with equal content in two, such as "
            f"{'; '.join(apart[:3])}. Keep each in the class that it shows, and name a folder without the other"
        )
    leaks = pairs(lambda video: video.group)
    return [f"{len(leaks)} video(s) with equal content in two groups: {'; '.join(leaks[:3])}"] if leaks else []
