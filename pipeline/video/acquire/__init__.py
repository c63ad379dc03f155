"""Acquiring videos, or sequences of features of videos: one layout in ``data/raw/video``, whatever the source."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.common import paths, records
from pipeline.video import layout
from pipeline.video.acquire import features, folder, synthetic, ucf11, ucf101

if TYPE_CHECKING:
    from pipeline.params import VideoAcquire

_STAGING = paths.CHECKPOINTS / "acquire-video"

SOURCES: dict[str, Callable[[VideoAcquire, int], folder.Acquired]] = {
    "synthetic": lambda given, seed: synthetic.acquire(_STAGING, seed, given.synthetic_groups, given.synthetic_clips),
    "ucf11": lambda given, _: ucf11.acquire(_STAGING, given.ucf11_from),
    "ucf101": lambda *_: ucf101.acquire(_STAGING),
    "folder": lambda given, _: folder.acquire(_STAGING, given.folder, given.group_pattern),
    "features": lambda given, _: features.acquire(_STAGING, given.features_path, given.group_pattern),
}
"""Each takes settings and seed, and puts ``videos/`` or ``sequences.parquet`` into the staging folder."""


def acquire(settings: VideoAcquire, seed: int) -> None:
    """Put videos or sequences, their list and their provenance into ``data/raw/video``: all of it or nothing.

    Raises:
        LayoutError: a tree or table that cannot be understood, or of which nothing can be learnt.
        ArchiveError: an archive that is damaged, hostile, or needs a program that is not there.
        DownloadError: something cannot be had.
        FileNotFoundError: the settings name no file or folder, or none that exists.
        OSError: the disk is full or read-only.
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
    shutil.move(_STAGING, raw)
    print(f"video: {len(videos)} videos of {len(clips)} classes, source {settings.source}")
    if record.get("files_ignored"):
        print(f"video: {record['files_ignored']} other file(s) ignored (no videos, annotations, hidden, broken links)")
    for warning in (*filter(None, [record.get("partial")]), *acquired.warnings):
        print(f"video: warning: {warning}")
