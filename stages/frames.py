"""Stage frames: sample each video at 1.4 frames per second, with a manifest row for every one."""

import sys
from collections import Counter

from pipeline import params
from pipeline.common import command, paths
from pipeline.video import layout
from pipeline.video.frames import frames
from pipeline.video.frames.sampling import Sampling


@command.stage("frames", passes=(paths.raw("video"), paths.FRAMES))
def main() -> None:
    """Sample videos, or list the sequences that were given."""
    settings = params.load().video.frames
    sampling, videos, bad = Sampling.of(settings.model_dump()), layout.load(layout.INDEX), settings.max_bad_fraction
    if layout.SEQUENCES.is_file():
        manifest = frames.list_sequences(videos, layout.SEQUENCES, sampling, paths.FRAMES)
    else:
        manifest = frames.extract(videos, layout.CLIPS, sampling, paths.FRAMES, max_bad_fraction=bad)
    counts = Counter(manifest["status"].to_pylist())
    told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    print(f"frames: {sum(manifest['frames_stored'].to_pylist())} frames of {len(manifest)} videos ({told})")
    for row in manifest.to_pylist():
        if row["status"] in ("corrupt", "unreadable"):
            print(f"frames: left out {row['path']}: {row['status']}: {row['error']}", file=sys.stderr)
