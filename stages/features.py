"""Stage features: turn frames into Inception-v3 features, or take the features that people give."""

from pipeline import params
from pipeline.common import command, jobs, paths, records
from pipeline.video import layout


@command.stage("features", passes=(paths.FRAMES, paths.FEATURES))
def main() -> None:
    """Extract features, or take those that were given."""
    (paths.FEATURES / records.ABOUT).unlink(missing_ok=True)
    if not layout.SEQUENCES.is_file():
        jobs.begin("pipeline.video.features.features")
    from pipeline.video.features import features

    settings = params.load()
    params.use_mirror(settings)
    if layout.SEQUENCES.is_file():
        count = features.take(layout.SEQUENCES, paths.FRAMES, paths.FEATURES)
    else:
        count = features.extract(paths.FRAMES, settings.video.features, settings.seed, paths.FEATURES)
    print(f"features: of {count} frames")
