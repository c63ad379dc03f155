"""Bits that flip and ends that are cut off: damage is named or harmless, never a crash, and in numbers never missed."""

import dataclasses
import random
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline import params
from pipeline.common import records, sequences
from pipeline.fx import rates, windows
from pipeline.training import models, results
from pipeline.video import clips, layout
from pipeline.video.features import features
from pipeline.video.frames import codec, frames
from tests.faults import harness

FLIPS = 80


def whole_video(file):
    """Decode a video and ask whether its end is there, as the stage does."""
    scan = codec.scan(file)
    if codec.cut_off(file):
        raise codec.VideoError("expected a complete last packet, found the file cut off")
    return scan


def readers(stage, task):
    """How each file of training and its results is read."""
    run, data = f"data/runs/{task}/gru", f"data/sequences/{task}"
    files = {
        f"{data}/{name}": lambda file: sequences.load(file.parent) for name in (sequences.ABOUT, "pool.safetensors")
    }
    files[f"{data}/sequences.parquet"] = lambda file: sequences.load(file.parent)
    files |= {
        f"{run}/{name}": lambda _: results.load(task, "gru")
        for name in ("run.json", "curves.parquet", "outcomes.parquet", "predictions.parquet")
    }
    return [(stage, name, read) for name, read in (files | {f"{run}/models/none.safetensors": models.load}).items()]


READERS = [
    ("windows", "params.yaml", params.load),
    ("windows", "data/raw/fx/rates.csv", rates.read),
    ("windows", "data/raw/fx/source.json", records.read_json),
    ("train", "data/sequences/fx/windows.parquet", windows.load),
    *readers("train", "fx"),
    ("frames", "data/raw/video/index.csv", layout.load),
    ("frames", "data/raw/video/videos/*/*/*.mpg", whole_video),
    ("features", "data/frames/manifest.parquet", lambda file: frames.read_manifest(file.parent)),
    ("features", "data/frames/*/*/*.parquet", frames.decode_images),
    ("clips", "data/features/features.parquet", features.load),
    ("clips", "data/features/vectors.safetensors", lambda file: features.load(file.with_name("features.parquet"))),
    ("train-video", "data/sequences/video/clips.parquet", clips.load),
    *readers("train-video", "video"),
]
"""How each file of the pipeline is read (the first that fits its name), and a stage of its project."""


def flipped(content, number, name):
    """Flip one bit of ``content``; the place, which is returned as well, follows from the number and the name."""
    at = random.Random(f"{name} {number}").randrange(8 * len(content))
    return content[: at // 8] + bytes([content[at // 8] ^ 1 << at % 8]) + content[at // 8 + 1 :], at // 8


def cut(content, number):
    return content[: random.Random(number).randrange(len(content))]


def plain(value):
    """Return what a reader gave as values that compare bit by bit."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes() if value.dtype != object else value.tolist()
    if isinstance(value, pa.Table):
        return value.to_pydict(), value.schema.to_string(show_schema_metadata=False), value.schema.metadata
    if hasattr(value, "to_numpy"):
        return {name: plain(value[name].to_numpy()) for name in value}
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [plain(part) for part in value] if isinstance(value, tuple) else repr(value)


@pytest.mark.parametrize(("stage", "name", "read"), READERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_flipped_bit_or_a_cut_end_is_an_expected_error_or_the_same_numbers(copy, monkeypatch, stage, name, read):
    """Files of numbers hold checksums: outside of a parquet footer, which has none, no flip gives other numbers.

    Text, videos and networks hold none, so a flip may pass here; DVC's hashes notice it.
    """
    monkeypatch.chdir(copy)
    place = sorted(copy.glob(name))[0]
    content, sums = place.read_bytes(), place.suffix == ".parquet" or place.stem in ("vectors", "pool")
    expected, refused = plain(read(place)), 0
    body = len(content) - (8 + int.from_bytes(content[-8:-4], "little") if place.suffix == ".parquet" else 0)
    for number in range(FLIPS):
        changed, at = (cut(content, number), 0) if number % 4 == 3 else flipped(content, number, name)
        place.write_bytes(changed)
        try:
            value = read(place)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error)
            continue
        assert number % 4 != 3 or not sums, "a cut file was read"
        assert not sums or at >= body or plain(value) == expected, (
            f"byte {at} of {body}: other numbers without an error"
        )
    assert refused >= (FLIPS // 4 if sums else 1)


RUN = ("curves.parquet", "outcomes.parquet", "predictions.parquet", "run.json")
SEQUENCES = ("about.json", "sequences.parquet", "pool.safetensors")
INPUTS = {
    "windows": ["data/raw/fx/rates.csv"],
    "train": [f"data/sequences/fx/{name}" for name in SEQUENCES],
    "evaluate": [f"data/runs/fx/gru/{name}" for name in RUN] + ["data/sequences/fx/windows.parquet"],
    "study": [f"data/sequences/fx/{name}" for name in SEQUENCES],
    "frames": ["data/raw/video/index.csv"],
    "features": ["data/frames/manifest.parquet", "data/frames/*/*/*.parquet"],
    "clips": [
        "data/frames/manifest.parquet",
        *(f"data/features/{n}" for n in ("features.parquet", "vectors.safetensors")),
    ],
    "train-video": [f"data/sequences/video/{name}" for name in SEQUENCES],
    "evaluate-video": ["data/sequences/video/clips.parquet", "data/runs/video/gru/groups/predictions.parquet"],
}


@pytest.mark.parametrize("stage", INPUTS)
def test_stages_name_the_damaged_input(launcher, copy, stage):
    expected = harness.hashes(harness.output(copy, stage))
    for name in INPUTS[stage]:
        place = sorted(copy.glob(name))[0]
        content = place.read_bytes()
        for damage in (content[: len(content) // 2], b"\xff" * len(content), None):
            place.unlink()
            if damage is not None:
                place.write_bytes(damage)
            harness.remove_outputs(copy, stage)
            shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
            assert launcher.run(stage, copy)[0] == 1, harness.log(copy)
            text = harness.log(copy)
            # What was trained is missing without its record, whatever else is there.
            assert (str(place.parent.relative_to(copy)) if damage is None else place.name) in text
            assert "Traceback" not in text
            assert harness.hashes(harness.output(copy, stage)).items() < expected.items()
        place.write_bytes(content)
    assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
    assert harness.hashes(harness.output(copy, stage)) == expected


@pytest.mark.parametrize(
    ("stage", "last"), [("train", 6), ("train-video", 6), ("frames", 4), ("features", 3), ("study", 5)]
)
def test_damage_to_what_a_stage_goes_on_from_costs_time_only(launcher, copy, stage, last):
    """A flipped bit anywhere, an end that is missing, nothing at all, a whole entry under another's name."""
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    for kind in range(4):
        harness.remove_outputs(copy, stage)
        shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
        launcher.run(stage, copy, fault=f"die before replace {last}")
        entries = harness.kept(copy)
        assert entries
        contents = [entry.read_bytes() for entry in entries]
        for number, (entry, content) in enumerate(zip(entries, contents, strict=True)):
            harm = (flipped(content, number, "kept")[0], cut(content, number), b"", contents[number - 1])
            entry.write_bytes(harm[kind])
        assert launcher.run(stage, copy)[0] == 0, harness.log(copy)
        assert harness.hashes(output) == expected
