"""Acquiring videos, or sequences of features of videos: one layout in ``data/raw/video``, whatever the source."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common import paths, records
from pipeline.video import layout
from pipeline.video.acquire import features, folder, synthetic, ucf11, ucf101

if TYPE_CHECKING:
    from pipeline.params import VideoAcquire

_STAGING = paths.CHECKPOINTS / "acquire-video"

SOURCES: dict[str, Callable[["VideoAcquire", int], folder.Acquired]] = {
    "synthetic": lambda given, seed: synthetic.acquire(_STAGING, seed, given.synthetic_groups, given.synthetic_clips),
    "ucf11": lambda given, _: ucf11.acquire(_STAGING, given.ucf11_from),
    "ucf101": lambda *_: ucf101.acquire(_STAGING),
    "folder": lambda given, _: folder.acquire(_STAGING, given.folder, given.group_pattern),
    "features": lambda given, _: features.acquire(_STAGING, given.features_path, given.group_pattern),
}  # each puts ``videos/`` or ``sequences.parquet`` into the staging folder


def acquire(settings: "VideoAcquire", seed: int) -> None:
    """Put videos or sequences, their list and their provenance into ``data/raw/video``: all of it or nothing.

    What cannot be understood or learnt from is a ``LayoutError``, a damaged or hostile archive an ``ArchiveError``
    (both are ``ValueError``); what cannot be had or written is an ``OSError``.
    """
    if settings.source != "ucf11":  # which goes on from what it unpacked before
        shutil.rmtree(_STAGING, ignore_errors=True)
    acquired = SOURCES[settings.source](settings, seed)
    videos, raw = layout.check(acquired.videos), paths.raw("video")
    layout.save(videos, _STAGING / layout.INDEX.name)
    clips = Counter(video.class_name for video in videos)
    groups = Counter(class_name for class_name, _ in {(video.class_name, video.group) for video in videos})
    record = {
        "source": settings.source,
        **acquired.record,
        "videos": len(videos),
        "classes": {name: {"clips": clips[name], "groups": groups[name]} for name in sorted(clips)},
        "warnings": acquired.warnings,
    }
    records.write_json(_STAGING / paths.source_record("video").name, record)
    if raw.exists():
        shutil.rmtree(raw)
    raw.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place first: from another disk it is copied, which may be killed or run out of room.
    with tempfile.TemporaryDirectory(dir=raw.parent, suffix=".tmp") as beside:
        Path(shutil.move(_STAGING, Path(beside) / raw.name)).replace(raw)
    print(f"video: {len(videos)} videos of {len(clips)} classes, source {settings.source}")
    if record.get("files_ignored"):
        print(f"video: {record['files_ignored']} other file(s) ignored (no videos, annotations, hidden, broken links)")
    for warning in (*filter(None, [record.get("partial")]), *acquired.warnings):
        print(f"video: warning: {warning}")
