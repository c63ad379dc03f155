"""Bits that flip and ends that are cut off: damage is named or harmless, never a crash, and in numbers never missed.

Every flip in a table, a pool or kept work: tests/common.
"""

import random
import shutil

import pytest

from pipeline import params
from pipeline.fx import rates
from pipeline.training import models, results
from pipeline.video import layout
from pipeline.video.frames import codec, frames
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
    """Flip one bit of ``content``."""
    at = random.Random(number).randrange(8 * len(content))
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :]


def cut(content, number):
    return content[: random.Random(number).randrange(len(content))]


@pytest.mark.parametrize("stage", INPUTS)
def test_stages_name_the_damaged_input(launcher, copy, stage):
    expected = harness.hashes(harness.output(copy, stage))
    for name in INPUTS[stage]:
        place = sorted(copy.glob(name))[0]
        content = place.read_bytes()
        # A flip in half of the file: a parquet footer, which has no checksum, is at its end. Text has none at all.
        half = len(content) // 2
        flips = [
            flipped(content[:half], k) + content[half:]
            for k in range(2 * (place.suffix in (".parquet", ".safetensors")))
        ]
        for damage in (content[:half], b"\xff" * len(content), None, *flips):
            place.unlink(missing_ok=True)
            if damage is not None:
                place.write_bytes(damage)
            harness.remove_outputs(copy, stage)
            shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
            status, text = launcher.run(stage, copy)[0], harness.log(copy)
            if status == 0 and damage in flips:  # a byte that nobody needs
                assert harness.hashes(harness.output(copy, stage)) == expected
                continue
            assert status == 1, text
            # What was trained is missing without its record, whatever else is there.
            assert (str(place.parent.relative_to(copy)) if damage is None else place.name) in text
            assert "Traceback" not in text
            assert harness.hashes(harness.output(copy, stage)).items() < expected.items()
        place.write_bytes(content)
    assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
    assert harness.hashes(harness.output(copy, stage)) == expected


def whole_video(file):
    """Decode a video and ask whether its end is there, as the stage does."""
    codec.scan(file)
    if codec.cut_off(file):
        raise codec.VideoError("cut off")


READERS = {
    ("windows", "params.yaml"): params.load,
    ("windows", "data/raw/fx/rates.csv"): rates.read,
    ("train", "data/runs/fx/gru/run.json"): lambda _: results.load("fx", "gru"),
    ("train", "data/runs/fx/gru/models/none.safetensors"): models.load,
    ("frames", "data/raw/video/index.csv"): layout.load,
    ("frames", "data/raw/video/videos/*/*/*.mpg"): whole_video,
    ("features", "data/frames/*/*/*.parquet"): frames.decode_images,
}
"""How files without checksums are read: DVC's hashes notice what passes here. Frames hold pictures in checked pages."""


@pytest.mark.parametrize(("stage", "name"), READERS)
def test_a_flipped_bit_or_a_cut_end_is_an_expected_error_or_a_readable_file(copy, monkeypatch, stage, name):
    monkeypatch.chdir(copy)
    place, refused = sorted(copy.glob(name))[0], 0
    content = place.read_bytes()
    for number in range(80):
        place.write_bytes(cut(content, number) if number % 4 == 3 else flipped(content, number))
        try:
            READERS[stage, name](place)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error)
    assert refused


LAST = {"train": 6, "train-video": 6, "frames": 4, "features": 3, "study": 5}
"""Stages that go on from kept work, and the file before whose naming they are killed."""


@pytest.mark.parametrize("stage", LAST)
def test_damage_to_what_a_stage_goes_on_from_costs_time_only(launcher, copy, stage):
    """A flipped bit anywhere, an end that is missing, nothing at all, a whole entry under another's name."""
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    for kind in range(4):
        harness.remove_outputs(copy, stage)
        shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
        launcher.run(stage, copy, fault=f"die before replace {LAST[stage]}")
        entries = harness.kept(copy)
        assert entries
        contents = [entry.read_bytes() for entry in entries]
        for number, (entry, content) in enumerate(zip(entries, contents, strict=True)):
            harm = (flipped(content, number), cut(content, number), b"", contents[number - 1])
            entry.write_bytes(harm[kind])
        assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
        assert harness.hashes(output) == expected
