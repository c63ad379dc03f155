"""Own videos: a folder class/group/clip. In your clone the same goes into params.yaml; then ``make repro``."""

from pathlib import Path

import cv2
import numpy as np

from examples import scratch

PARAMS = """
tasks: [video]
cells: [gru]
video:
  acquire: {source: folder, folder: my_videos}
  frames: {per_clip: 2}
  clips: {splits: [groups], test_fraction: 0.5}
training: {repetitions: 2, conditions: [none, blind-additive-output, nem-additive-output]}
train: {video: {hidden: 4, epochs: 5, max_epochs: 6}}
"""


def write_videos(folder: Path) -> None:
    """Write two groups of two classes: a square that falls, and one that rises, two seconds each."""
    for name, step in (("falls", 3), ("rises", -3)):
        for group in range(2):
            file = folder / name / f"g{group}" / "clip.avi"
            file.parent.mkdir(parents=True)
            writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 15, (64, 64))
            for k in range(30):
                picture = np.full((64, 64, 3), 20 + 30 * group, np.uint8)
                top = (20 + 5 * group + step * k) % 48
                picture[top : top + 16, 24:40] = 255
                writer.write(picture)
            writer.release()


def main() -> dict[str, float]:
    """Run the stages, and return the test accuracies. Real videos want ``features: {weights: imagenet}``."""
    found = scratch.results(
        PARAMS,
        lambda: write_videos(Path("my_videos")),
        "acquire video",
        "frames",
        "features",
        "clips",
        "train video gru",
        "evaluate",
    )
    return scratch.means(found["video"]["gru"], "test_accuracy")


if __name__ == "__main__":
    print(main())
