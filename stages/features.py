"""Stage features: turn frames into Inception-v3 features, and features into labelled, split clips."""

from __future__ import annotations

import sys

from pipeline import cli, params, paths
from pipeline.video import clips, features, frames


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; return the exit status."""

    def work() -> None:
        settings = params.load()
        video = settings.video
        count = features.extract(
            paths.FRAMES, video.features, settings.seed, paths.FEATURES, paths.CHECKPOINTS / "features"
        )
        table = features.load(paths.FEATURES_TABLE)
        made = clips.make(frames.read_manifest(paths.FRAMES), table, video.frames, video.clips, settings.seed)
        clips.save(made, paths.CLIPS_TABLE)
        told = ", ".join(
            f"{int((side == 'test').sum())} {how}" for how, side in
            (("by chance", made.split_random), ("by group", made.split_groups))
        )  # fmt: skip
        print(f"features: {count} frames; {len(made)} clips of {len(made.classes)} classes; for testing: {told}")

    return cli.run("features", work)


if __name__ == "__main__":
    sys.exit(main())
