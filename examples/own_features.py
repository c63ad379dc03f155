"""Own feature sequences of videos: class/group/video.npy. In your clone: the same params.yaml, then ``make repro``."""

from pathlib import Path

import numpy as np

from examples import scratch

PARAMS = """
tasks: [video]
cells: [lstm]
video:
  acquire: {source: features, features_path: my_features}
  frames: {per_clip: 4}
  clips: {splits: [random, groups], test_fraction: 0.3}
training: {repetitions: 2, conditions: [none, blind-additive-both, nem-additive-both]}
train: {video: {hidden: 8, epochs: 10, max_epochs: 12, learning_rate: 0.02}}
"""


def write_features(folder: Path) -> None:
    """Write three groups of two classes, two videos each: frames drift along a direction of the class."""
    random = np.random.default_rng(1)
    for name in ("left", "right"):
        towards = random.normal(size=16)
        for group in range(3):
            place = folder / name / f"g{group}"
            place.mkdir(parents=True)
            start = random.normal(size=16)
            for video in range(2):
                frames = start + 0.3 * np.arange(6)[:, None] * towards + random.normal(size=(6, 16))
                np.save(place / f"v{video}.npy", frames.astype(np.float32))


def main() -> dict[str, float]:
    """Run the stages, and return the test accuracies on whole groups that training has not seen."""
    found = scratch.results(
        PARAMS,
        lambda: write_features(Path("my_features")),
        "acquire video",
        "frames",
        "features",
        "clips",
        "train video lstm",
        "evaluate",
    )
    return scratch.means(found["video_groups"]["lstm"], "test_accuracy")


if __name__ == "__main__":
    print(main())
