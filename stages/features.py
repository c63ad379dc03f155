"""Stage features: turn frames into Inception-v3 features, and features into labelled, split clips."""

from __future__ import annotations

import sys

from pipeline import cli, params, paths
from pipeline.video import clips, features, frames, pseudo


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; return the exit status."""

    def work() -> None:
        settings = params.load()
        video = settings.video
        if pseudo.acquired():
            images = pseudo.read(paths.VIDEO_VECTORS)
            pseudo.write_features(images, paths.FEATURES)
            made = pseudo.make(images, video.clips, settings.seed, video.frames.per_clip)
            what = f"{len(images)} images"
        else:
            count = features.extract(
                paths.FRAMES, video.features, settings.seed, paths.FEATURES, paths.CHECKPOINTS / "features"
            )
            table = features.load(paths.FEATURES_TABLE)
            made = clips.make(frames.read_manifest(paths.FRAMES), table, video.frames, video.clips, settings.seed)
            what = f"{count} frames"
        clips.save(made, paths.CLIPS_TABLE)
        told = ", ".join(
            f"{int((side == 'test').sum())} {how}" for how, side in
            (("by chance", made.split_random), ("by group", made.split_groups))
        )  # fmt: skip
        print(f"features: {what}; {len(made)} clips of {len(made.classes)} classes; for testing: {told}")

    return cli.run("features", work)


if __name__ == "__main__":
    sys.exit(main())
