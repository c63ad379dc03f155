"""Acquiring videos: drawn ones, UCF-11, or anybody's folder; always into one layout with a list of classes and groups.

Source ``vectors`` has no videos: :mod:`pipeline.video.pseudo`.

UCF-11 (Liu, Luo, Shah 2009) is for non-commercial research. Its archive comes from the University of Central Florida's
Center for Research in Computer Vision; nobody published a hash, so the first one seen is trusted and written to a lock.
"""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from pipeline import download, paths, records
from pipeline.params import VideoAcquire
from pipeline.video import archive, layout, pseudo, synthetic
from pipeline.video.layout import LayoutError, Video

UCF11_URLS = {
    "rar": "https://www.crcv.ucf.edu/data/UCF11_updated_mpg.rar",
    "zip": "https://www.crcv.ucf.edu/data/YouTube_DataSet_Annotated.zip",
}
UCF11_MIRROR = PurePosixPath("ucf11")
UCF11_CLIPS = 1_600
"""About how many clips the whole data set has (25 groups of at least 4 clips in each of 11 classes)."""
_STORE = paths.CHECKPOINTS / "acquire-video"


@dataclass(frozen=True)
class _Found:
    """Videos, the files that hold them, and where they come from.

    Attributes:
        files: the file of each video.
        record: provenance.
        ignored: other files beside them.
        whole: a folder of ours that holds just these files in their places, so that it can be moved.
    """

    files: dict[Video, Path]
    record: dict[str, object]
    ignored: int = 0
    whole: Path | None = None


def acquire(settings: VideoAcquire, seed: int) -> None:
    """Put videos below :data:`paths.VIDEO_CLIPS`, their list and their provenance beside them.

    Args:
        settings: which source.
        seed: root of the seed tree, for the synthetic source.

    Raises:
        LayoutError: a tree that cannot be understood, or without videos.
        ArchiveError: an archive that is damaged, hostile, or needs a program that is not there.
        DownloadError: the archive cannot be had.
        FileNotFoundError: source ``folder`` names no folder, or source ``vectors`` no file.
        ValueError: source ``vectors`` names a file of something else.
    """
    if settings.source == "vectors":
        pseudo.acquire(settings)
        return
    if settings.source == "synthetic":
        found = _synthetic(settings, seed)
    elif settings.source == "ucf11":
        found = _ucf11(settings)
    else:
        found = _folder(settings)
    shutil.rmtree(paths.VIDEO_RAW, ignore_errors=True)
    paths.VIDEO_RAW.mkdir(parents=True, exist_ok=True)
    if found.whole is None or not _moved(found.whole, paths.VIDEO_CLIPS):
        for video, file in tqdm(found.files.items(), desc="copy videos", mininterval=1):
            archive.copy(file, paths.VIDEO_CLIPS / video.path)
        if found.whole is not None:
            shutil.rmtree(found.whole)
    layout.save(list(found.files), paths.VIDEO_INDEX)
    clips = Counter(video.class_name for video in found.files)
    groups = Counter(name for name, _ in {(video.class_name, video.group) for video in found.files})
    record = {
        "source": settings.source,
        **found.record,
        "videos": len(found.files),
        "files_ignored": found.ignored,
        "classes": {name: {"clips": clips[name], "groups": groups[name]} for name in sorted(clips)},
    }
    records.write_json(paths.source_record("video"), record)
    print(f"video: {len(found.files)} videos of {len(clips)} classes, source {settings.source}")
    if found.ignored:
        print(f"video: {found.ignored} other file(s) ignored (no videos, annotations, or hidden)")
    if "partial" in found.record:
        print(f"video: {found.record['partial']}")


def _moved(whole: Path, destination: Path) -> bool:
    """Move a folder in one step; say whether that was possible, as it is not from one file system to another."""
    try:
        whole.replace(destination)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _synthetic(settings: VideoAcquire, seed: int) -> _Found:
    shutil.rmtree(_STORE, ignore_errors=True)
    videos = synthetic.generate(_STORE, seed, settings.synthetic_groups, settings.synthetic_clips)
    note = "drawn videos: nothing computed from them says anything about real ones"
    return _Found(_placed(_STORE, videos), {"seed": seed, "note": note}, whole=_STORE)


def _placed(root: Path, videos: Iterable[Video]) -> dict[Video, Path]:
    return {video: root / video.path for video in layout.check(videos)}


def _ucf11(settings: VideoAcquire) -> _Found:
    """Find UCF-11: as the settings say, or, for ``auto``, what the mirror holds, or else the RAR from its site."""
    mirror = paths.mirror()
    kind: str = settings.ucf11_from
    if kind == "auto":
        kind = _in_mirror(mirror) or "rar"
    terms = "UCF-11: non-commercial research; cite J. Liu, J. Luo and M. Shah, CVPR 2009"
    if kind == "folder":
        if mirror is None:
            raise FileNotFoundError(
                f"expected {paths.MIRROR_VARIABLE} to name a folder with {UCF11_MIRROR}/<class>/<group>/<clip>, found "
                "it unset; set it, or choose video.acquire.ucf11_from rar"
            )
        root = mirror / UCF11_MIRROR
        files = layout.files_below(root)
        chosen: dict[Video, Path] = {}
        for place, file in ((layout.ucf11_place(str(name)), root / name) for name in files):
            if place is not None and chosen.setdefault(layout.ucf11_video(place), file) != file:
                raise LayoutError(f"expected {place} once below {root}, found it twice; keep one copy of the data set")
        videos = layout.check(chosen)
        unpacked: dict[str, object] = {"unpacked": True, "terms": terms}
        found = _Found({video: chosen[video] for video in videos}, unpacked, len(files) - len(videos))
    else:
        url = UCF11_URLS[kind]
        name = url.rsplit("/", 1)[1]
        packed = paths.CHECKPOINTS / "downloads" / name
        origin = download.fetch(
            url,
            packed,
            sha256=None,
            mirror_path=str(UCF11_MIRROR / name),
            lock=paths.DOWNLOAD_LOCK,
            accept=lambda file: archive.check(file, layout.ucf11_place),
        )
        _keep_for(origin.sha256)
        try:
            places = archive.unpack(packed, _STORE, layout.ucf11_place)
        except archive.DamagedError:
            download.forget(url, packed, paths.DOWNLOAD_LOCK)  # else it would be found, and trusted, again
            raise
        unpacked_to = map(layout.ucf11_video, places)
        found = _Found(_placed(_STORE, unpacked_to), {**origin.as_dict(), "terms": terms}, whole=_STORE)
    missing = set(layout.UCF11) - {video.class_name for video in found.files}
    if missing or len(found.files) < 0.9 * UCF11_CLIPS:
        found.record["partial"] = (
            f"a part of UCF-11: {len(found.files)} of about {UCF11_CLIPS} clips, "
            f"{len(missing)} of {len(layout.UCF11)} classes missing"
        )
    return found


def _in_mirror(mirror: Path | None) -> str | None:
    """Which form of UCF-11 the mirror holds."""
    if mirror is None:
        return None
    folder = mirror / UCF11_MIRROR
    for kind, url in UCF11_URLS.items():
        if (folder / url.rsplit("/", 1)[1]).is_file():
            return kind
    return "folder" if folder.is_dir() else None


def _keep_for(sha256: str) -> None:
    """Keep what was unpacked already if it came from the same archive, else clear it."""
    mark = _STORE.with_suffix(".sha256")
    if not mark.is_file() or mark.read_bytes() != sha256.encode():
        shutil.rmtree(_STORE, ignore_errors=True)
        records.write_text(mark, sha256)


def _folder(settings: VideoAcquire) -> _Found:
    if settings.folder is None:
        raise FileNotFoundError("expected video.acquire.folder with source folder, found null; name your folder there")
    root = Path(settings.folder)
    files = layout.files_below(root)
    places = [name for name in files if layout.is_video(name)]
    videos, faults = [], []
    for place in places:
        try:
            videos.append(layout.folder_video(place, settings.group_pattern))
        except LayoutError as error:
            faults.append(str(error))
    if faults:
        listed = "\n".join(f"  {fault}" for fault in faults[:10])
        raise LayoutError(f"expected videos as class/clip or class/group/clip, found {len(faults)} fault(s):\n{listed}")
    return _Found(_placed(root, videos), {"folder": root.name}, len(files) - len(places))
