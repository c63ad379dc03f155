"""Bits that flip and ends that are cut off: damage is named or harmless, never a crash, and in numbers never missed.

Every flip in a table, a pool or kept work: tests/common. Any bytes as rates and parameters: test_hostile.py.
"""

import random
import shutil

import pytest

from tests.faults import harness

RUN = ("curves.parquet", "outcomes.parquet", "predictions.parquet", "run.json")
SEQUENCES = ("about.json", "sequences.parquet", "pool.safetensors")
FEATURES = ("features.parquet", "vectors.safetensors")
INPUTS = {
    "windows": ["data/raw/fx/rates.csv"],
    "train": [f"data/sequences/fx/{name}" for name in SEQUENCES],
    "evaluate": [*(f"data/runs/fx/gru/{name}" for name in RUN), "data/sequences/fx/windows.parquet"],
    "study": [f"data/sequences/fx/{name}" for name in SEQUENCES],
    "frames": ["data/raw/video/index.csv"],
    "features": ["data/frames/manifest.parquet", "data/frames/*/*/*.parquet"],
    "clips": ["data/frames/manifest.parquet", *(f"data/features/{name}" for name in FEATURES)],
    "train-video": [f"data/sequences/video/{name}" for name in SEQUENCES],
    "evaluate-video": ["data/sequences/video/clips.parquet", "data/runs/video/gru/groups/predictions.parquet"],
}
"""What each stage reads; of several files that fit, the first."""


def flipped(content, number):
    at = random.Random(number).randrange(8 * len(content))
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


@pytest.mark.parametrize("stage", INPUTS)
def test_stages_name_the_damaged_input(launcher, copy, stage):
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    for name in INPUTS[stage]:
        place = sorted(copy.glob(name))[0]
        content = place.read_bytes()
        # A flip in half of the file: a parquet footer, which has no checksum, is at its end. Text has none at all.
        half, checked = len(content) // 2, place.suffix in (".parquet", ".safetensors")
        flips = [flipped(content[:half], k) + content[half:] for k in range(2)] if checked else []
        for damage in (content[:half], b"\xff" * len(content), None, *flips):
            place.unlink(missing_ok=True)
            if damage is not None:
                place.write_bytes(damage)
            harness.remove_outputs(copy, stage)
            shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
            status, text = launcher.run(stage, copy)[0], harness.log(copy)
            if status == 0 and damage in flips:  # a byte that nobody needs
                assert harness.hashes(output) == expected
                continue
            assert status == 1, text
            # What was trained is missing without its record, whatever else is there.
            assert (str(place.parent.relative_to(copy)) if damage is None else place.name) in text
            assert "Traceback" not in text
            assert harness.hashes(output).items() < expected.items()
        place.write_bytes(content)
    assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
    assert harness.hashes(output) == expected
