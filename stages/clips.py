"""Stage clips: turn features into labelled clips, split at random and by group."""

from dataclasses import asdict

from pipeline import params
from pipeline.common import command, paths
from pipeline.video import clips
from pipeline.video.features import table
from pipeline.video.frames import frames


@command.stage("clips", passes=(paths.FEATURES, paths.sequences("video")))
def main() -> None:
    """Make clips and their splits."""
    settings = params.load()
    manifest, sampling = frames.read_manifest(paths.FRAMES)
    features = table.load(paths.FEATURES_TABLE)
    made = clips.make(manifest, features, sampling, settings.video.clips.stride)
    origin = {**asdict(sampling), **features.about}
    splits = clips.write(made, features, settings.video.clips, origin, settings.seed, paths.sequences("video"))
    told = ", ".join(f"{int((sides == 'test').sum())} {name}" for name, sides in splits.items())
    print(f"clips: {len(made)} of {len(made.classes)} classes; for testing: {told}")
