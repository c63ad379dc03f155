"""Classify one video with a trained network: class probabilities over time, and the video with them drawn on it.

Example: ``python -m stages.classify clip.mpg --run data/runs/video/lstm --draw clip_classified.mp4``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline import cli, params


def main(arguments: list[str] | None = None) -> int:
    """Classify a video; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="folder of a trained run, such as data/runs/video/lstm")
    parser.add_argument("--condition", default="nem-additive-both", help="which of its networks")
    parser.add_argument("--draw", type=Path, help="write the video with the probabilities drawn on it (.mp4)")
    options = parser.parse_args(arguments)

    def work() -> None:
        from pipeline.training.serving import TrainedNetwork
        from pipeline.video import classify

        settings = params.load()
        network = TrainedNetwork(options.run / "models" / f"{options.condition}.safetensors")
        found = classify.classify(options.video, network, settings.video.frames, settings.video.features, settings.seed)
        for shown, row in zip(found.times, found.probabilities, strict=True):
            best = sorted(zip(found.classes, row, strict=True), key=lambda pair: -pair[1])[:3]
            print(f"{shown:7.2f} s  " + "  ".join(f"{name} {p:.1%}" for name, p in best))
        print("whole video: " + ", ".join(f"{name} {p:.1%}" for name, p in found.best()))
        if options.draw is not None:
            count = classify.draw(options.video, options.draw, found)
            print(f"wrote {count} frames to {options.draw}")

    return cli.run("classify", work)


if __name__ == "__main__":
    sys.exit(main())
