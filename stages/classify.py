"""Classify one video with a trained network: class probabilities over time, and the video with them drawn on it.

Example: ``python -m stages.classify clip.mpg --run data/runs/video/lstm --draw clip_classified.mp4``
"""

from pathlib import Path
from typing import Any

from pipeline.common import command

ARGUMENTS: dict[str, dict[str, Any]] = {
    "video": {"type": Path},
    "--run": {"type": Path, "required": True, "help": "folder of a trained run, such as data/runs/video/lstm"},
    "--condition": {"default": "nem-additive-both", "help": "which of its networks"},
    "--draw": {"type": Path, "help": "write the video with the probabilities drawn on it (.mp4)"},
}


@command.stage("classify", ARGUMENTS)
def main(video: Path, run: Path, condition: str, draw: Path | None) -> None:
    """Print the best classes of every second, and draw them if asked."""
    from pipeline.training import models
    from pipeline.video import classify

    classified = classify.classify(video, models.load(run / "models" / f"{condition}.safetensors"))
    for time, row in zip(classified.times, classified.probabilities, strict=True):
        best = sorted(zip(classified.classes, row, strict=True), key=lambda pair: -pair[1])[:3]
        print(f"{time:7.2f} s  " + "  ".join(f"{name} {p:.1%}" for name, p in best))
    print("whole video: " + ", ".join(f"{name} {p:.1%}" for name, p in classified.best()))
    if draw is not None:
        print(f"wrote {classify.draw(video, draw, classified)} frames to {draw}")
