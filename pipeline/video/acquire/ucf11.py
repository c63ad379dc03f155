"""UCF-11 (Liu, Luo, Shah 2009), for non-commercial research: from its archive, or unpacked in the mirror.

The archive comes from the University of Central Florida's Center for Research in Computer Vision; nobody published a
hash, so the first one seen is trusted and written to a lock.
"""

import re
import shutil
from pathlib import Path, PurePosixPath

from pipeline.common import download, paths, records
from pipeline.video.acquire import archive, folder
from pipeline.video.layout import LayoutError, Video

CLASSES = {
    "basketball": "v_shooting", "biking": "v_biking", "diving": "v_diving", "golf_swing": "v_golf",
    "horse_riding": "v_riding", "soccer_juggling": "v_juggle", "swing": "v_swing", "tennis_swing": "v_tennis",
    "trampoline_jumping": "v_jumping", "volleyball_spiking": "v_spiking", "walking": "v_walk_dog",
}  # fmt: skip
"""The classes (folders) and the prefix of their clips: they differ."""
URLS = {
    "rar": "https://www.crcv.ucf.edu/data/UCF11_updated_mpg.rar",
    "zip": "https://www.crcv.ucf.edu/data/YouTube_DataSet_Annotated.zip",
}
MIRROR = "ucf11"  # the folder in the mirror
CLIPS = 1_597  # videos that the whole set has
TERMS = "UCF-11: non-commercial research; cite J. Liu, J. Luo and M. Shah, CVPR 2009"


def place(name: str) -> PurePosixPath | None:
    """Return ``class/group/clip`` of a file in UCF-11, whatever folders its archive has above; ``None``: not a clip."""
    path = PurePosixPath(name)
    if not folder.is_video(path) or len(path.parts) < 3 or path.parts[-3] not in CLASSES:
        return None
    return PurePosixPath(*path.parts[-3:])


def video_at(path: PurePosixPath) -> Video:
    """Return the video at ``class/group/clip``; a ``LayoutError`` if neither clip nor folder names a group."""
    group = re.search(r"_(\d+)_\d+$", path.stem) or re.search(r"(\d+)$", path.parent.name)
    if group is None:
        raise LayoutError(f"expected a clip named like v_shooting_01_03.mpg, found {path}; give it its name in UCF-11")
    return Video(str(path), path.parts[0], group[1])


def acquire(staging: Path, kind: str) -> folder.Acquired:
    """Get UCF-11 as ``rar``, ``zip`` or ``folder``, or, for ``auto``, what the mirror holds, or else the RAR."""
    mirror = paths.mirror()
    shelf = None if mirror is None else mirror / MIRROR
    if kind == "auto":
        held = [] if shelf is None else [name for name, url in URLS.items() if (shelf / Path(url).name).is_file()]
        kind = held[0] if held else "folder" if shelf is not None and shelf.is_dir() else "rar"
    videos, record = _folder(shelf, staging) if kind == "folder" else _archive(kind, staging)
    missing = set(CLASSES) - {video.class_name for video in videos}
    if missing or len(videos) < 0.9 * CLIPS:
        part = f"{len(videos)} of {CLIPS} clips, {len(missing)} of {len(CLASSES)} classes missing"
        record["partial"] = f"a part of UCF-11: {part}"
    return folder.Acquired(videos, {**record, "terms": TERMS})


def _folder(shelf: Path | None, staging: Path) -> tuple[list[Video], dict[str, object]]:
    """Copy the clips of an unpacked set, whatever folders it has above."""
    if shelf is None:
        raise FileNotFoundError(
            f"expected {paths.MIRROR_VARIABLE} to name a folder with {MIRROR}/<class>/<group>/<clip>, found it unset; "
            "set it, or choose video.acquire.ucf11_from rar"
        )
    names, sources = folder.files_below(shelf), dict[Video, Path]()
    for name in names:
        if (path := place(str(name))) is not None:
            file = shelf / name
            if (other := sources.setdefault(video_at(path), file)) != file:
                raise LayoutError(f"expected {path} once, found {other} and {file}; name a folder with one copy")
    shutil.rmtree(staging, ignore_errors=True)
    folder.copy(sources, staging)
    return list(sources), {"unpacked": True, "files_ignored": len(names) - len(sources)}


def _archive(kind: str, staging: Path) -> tuple[list[Video], dict[str, object]]:
    """Unpack the archive, fetched or from the mirror."""
    packed = paths.CHECKPOINTS / "downloads" / Path(URLS[kind]).name
    origin = download.fetch(URLS[kind], packed, sha256=None, mirror_path=f"{MIRROR}/{packed.name}",
                            lock=paths.DOWNLOAD_LOCK, accept=lambda file: archive.check(file, place))  # fmt: skip
    mark = staging / "archive.sha256"  # what was unpacked before is kept if it came from the same archive
    if not mark.is_file() or mark.read_bytes() != str(origin["sha256"]).encode():
        shutil.rmtree(staging, ignore_errors=True)
        records.write_text(mark, str(origin["sha256"]))
    try:
        places = archive.unpack(packed, staging / "videos", place)
    except archive.DamagedError:
        download.forget(URLS[kind], packed, paths.DOWNLOAD_LOCK)  # else it would be trusted, and unpacked, again
        raise
    mark.unlink()
    return [video_at(path) for path in places], {**origin}
