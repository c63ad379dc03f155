"""Stage frames: sample each video at 1.4 frames per second, with a manifest row for every one."""

from __future__ import annotations

import sys
from collections import Counter

from pipeline import cli, params, paths
from pipeline.video import frames, layout, pseudo


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; return the exit status."""

    def work() -> None:
        settings = params.load()
        if pseudo.acquired():
            pseudo.write_manifest(paths.FRAMES)
            print("frames: none to sample, since the source is vectors of images")
            return
        videos = layout.load(paths.VIDEO_INDEX)
        manifest = frames.extract(
            videos, paths.VIDEO_CLIPS, settings.video.frames, paths.FRAMES, paths.CHECKPOINTS / "frames"
        )
        counts = Counter(manifest["status"].to_pylist())
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        print(f"frames: {sum(manifest['frames_stored'].to_pylist())} frames of {len(manifest)} videos ({told})")
        for row in manifest.to_pylist():
            if row["status"] in ("corrupt", "unreadable"):
                print(f"frames: left out {row['path']}: {row['status']}: {row['error']}", file=sys.stderr)

    return cli.run("frames", work)


if __name__ == "__main__":
    sys.exit(main())
