"""Bits that flip and ends that are cut off: damage is named or harmless, never a crash, and in numbers never missed."""

import dataclasses
import random
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from pipeline import params, records
from pipeline.fx import rates, windows
from pipeline.training import results
from pipeline.training.serving import TrainedNetwork
from pipeline.video import clips, codec, features, frames, layout
from tests.faults import harness

FLIPS = 60
RESULTS = ("run.json", "curves.parquet", "outcomes.parquet", "predictions.parquet")


def table_beside(file):
    """Read the table of features whose matrix is ``file``."""
    return features.load(file.with_name("features.parquet"))


def table_alone(file):
    """Read a table of features without its matrix, so that the table's own vectors are read."""
    features.table_twin(file).unlink(missing_ok=True)
    return features.load(file)


def whole_video(file):
    """Decode a video and ask whether its end is there, as the stage does."""
    found = codec.scan(file)
    if codec.ends_inside_packet(file):
        raise codec.VideoError("expected a complete last packet, found the file cut off")
    return found


READERS = {
    ("fx", "params.yaml"): params.load,
    ("fx", "data/raw/fx/rates.csv"): rates.read,
    ("fx", "data/raw/fx/source.json"): records.read_json,
    ("fx", "data/fx/windows.parquet"): windows.load,
    **{("fx", f"data/runs/fx/gru/{name}"): lambda _: results.load("fx", "gru") for name in RESULTS},
    ("fx", "data/runs/fx/gru/models/none.safetensors"): TrainedNetwork,
    ("video", "data/raw/video/index.csv"): layout.load,
    ("video", "data/raw/video/source.json"): records.read_json,
    ("video", "data/raw/video/videos/*/*/*.mpg"): whole_video,
    ("video", "data/frames/manifest.parquet"): lambda file: frames.read_manifest(file.parent),
    ("video", "data/frames/*/*/*.parquet"): frames.decode_images,
    ("video", "data/features/features.parquet"): table_alone,
    ("video", "data/features/vectors.safetensors"): table_beside,
    ("video", "data/features/clips.parquet"): clips.load,
    **{("video", f"data/runs/video/gru/{name}"): lambda _: results.load("video", "gru") for name in RESULTS},
    ("video", "data/runs/video/gru/models/none.safetensors"): TrainedNetwork,
}
"""How each file of the pipeline is read, by the half that it belongs to and its place (the first that fits)."""
SURE = [key for key in READERS if key[1].endswith((".parquet", "vectors.safetensors"))]
"""Files that hold checksums of their numbers."""
HALVES = {"fx": "train", "video": "train-video"}


def flipped(content, number, name):
    """Flip one bit of ``content``; the place follows from the number and the name."""
    at = random.Random(f"{name} {number}").randrange(8 * len(content))
    changed = bytearray(content)
    changed[at // 8] ^= 1 << at % 8
    return bytes(changed), at // 8


def cut(content, number):
    """Take the end off ``content``."""
    return content[: random.Random(number).randrange(len(content))]


def plain(found):
    """Return what a reader found as values that compare bit by bit."""
    if isinstance(found, torch.Tensor):
        found = found.numpy()
    if isinstance(found, np.ndarray):
        return str(found.dtype), found.shape, found.tobytes() if found.dtype != object else found.tolist()
    if isinstance(found, pa.Table):
        return found.to_pydict(), found.schema.to_string(show_schema_metadata=False), found.schema.metadata
    if isinstance(found, pd.DataFrame):
        return {name: plain(found[name].to_numpy()) for name in found}
    if dataclasses.is_dataclass(found):
        return {field.name: plain(getattr(found, field.name)) for field in dataclasses.fields(found)}
    return repr(found)


@pytest.fixture
def place(copy, monkeypatch, name):
    """A file in a project of its own, which is the working directory."""
    monkeypatch.chdir(copy)
    return sorted(copy.glob(name))[0]


ids = {"ids": lambda value: value.split("/")[-1] if "/" in value else value}


@pytest.mark.parametrize(("stage", "name"), [(HALVES[half], name) for half, name in READERS], **ids)
def test_a_flipped_bit_or_a_cut_end_is_an_expected_error_or_a_readable_file(place, stage, name):
    """Text, videos and networks hold no checksum, so a flip may pass here; DVC's hashes notice it (test_dvc.py)."""
    read = READERS["video" if "video" in stage else "fx", name]
    content = place.read_bytes()
    read(place)
    refused = 0
    for number in range(FLIPS):
        place.write_bytes(cut(content, number) if number % 3 == 2 else flipped(content, number, name)[0])
        try:
            read(place)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(error)
    assert refused


@pytest.mark.parametrize(("stage", "name"), [(HALVES[half], name) for half, name in SURE], **ids)
def test_a_flipped_bit_in_numbers_is_always_noticed(place, stage, name):
    """Parquet pages and the matrix of features carry checksums: outside of a footer no flip gives other numbers.

    A parquet footer, some kilobytes of names, places and sizes, has none of its own.
    """
    read = READERS["video" if "video" in stage else "fx", name]
    content = place.read_bytes()
    expected, noticed = plain(read(place)), 0
    body = len(content)
    if place.suffix == ".parquet":
        body -= 8 + int.from_bytes(content[-8:-4], "little")
    for number in range(2 * FLIPS):
        changed, at = flipped(content[:body], number, name)
        place.write_bytes(changed + content[body:])
        try:
            found = read(place)
        except ValueError:
            noticed += 1
            continue
        assert plain(found) == expected, f"byte {at} of {body}: other numbers without an error"
    assert noticed > FLIPS


INPUTS = {
    "fx_windows": ["data/raw/fx/rates.csv"],
    "train": ["data/fx/windows.parquet"],
    "evaluate": [f"data/runs/fx/gru/{name}" for name in ("curves.parquet", "run.json")],
    "frames": ["data/raw/video/index.csv"],
    "features": ["data/frames/manifest.parquet", "data/frames/*/*/*.parquet"],
    "train-video": [f"data/features/{name}" for name in ("features.parquet", "vectors.safetensors", "clips.parquet")],
    "evaluate-video": ["data/features/clips.parquet", "data/runs/video/gru/predictions.parquet"],
    "study-map": ["data/study/quick/data/fx_days.safetensors"],
    "study-final": ["data/study/quick/map.parquet"],
    "study-report": ["data/study/quick/final.parquet"],
}


@pytest.mark.parametrize(("stage", "name"), [(stage, name) for stage, names in INPUTS.items() for name in names], **ids)
def test_stages_name_the_damaged_input(launcher, copy, place, stage, name):
    expected = harness.hashes(harness.output(copy, stage))
    content = place.read_bytes()
    for damage in (content[: len(content) // 2], b"", b"\xff" * len(content)):
        place.write_bytes(damage)
        harness.remove_outputs(copy, stage)
        shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
        status, _ = launcher.run(stage, copy)
        text = harness.log(copy)
        assert status == 1, text
        assert place.name in text
        assert "Traceback" not in text
        assert not harness.hashes(harness.output(copy, stage))
    place.write_bytes(content)
    status, _ = launcher.run(stage, copy)
    assert status == 0, harness.log(copy)
    assert harness.hashes(harness.output(copy, stage)) == expected


STOPPED = {"train": 6, "train-video": 6, "frames": 4, "features": 3, "study-map": 5}
"""Stages that keep something to go on from, and a file before whose naming they are killed."""


@pytest.mark.parametrize(
    ("stage", "damage"),
    # A chunk's digest is of its numbers and not of its name, so features would take one chunk for another.
    [(s, d) for s in STOPPED for d in ("flip", "cut", "empty", "other") if (s, d) != ("features", "other")],
)
def test_damage_to_what_a_stage_goes_on_from_costs_time_only(launcher, copy, stage, damage):
    """Anywhere in the file: a header, a digit, the numbers themselves."""
    output = harness.output(copy, stage)
    expected = harness.hashes(output)
    for number in range(4 if damage == "flip" else 1):
        harness.remove_outputs(copy, stage)
        shutil.rmtree(copy / ".checkpoints", ignore_errors=True)
        launcher.run(stage, copy, fault=f"die before replace {STOPPED[stage]}")
        files = sorted(
            f for f in (copy / ".checkpoints").rglob("*.*") if f.is_file() and f.suffix not in (".lock", ".tmp")
        )
        assert files
        for file in files:
            content = file.read_bytes()
            harmed = {
                "flip": flipped(content, number, file.name)[0],
                "cut": cut(content, len(content)),
                "empty": b"",
                "other": files[0].read_bytes(),  # a whole file in the wrong place
            }[damage]
            file.write_bytes(harmed)
        status, _ = launcher.run(stage, copy)
        assert status == 0, harness.log(copy)
        assert harness.hashes(output) == expected


def test_results_that_are_missing_are_named(copy, monkeypatch):
    monkeypatch.chdir(copy)
    assert np.isfinite(results.load("fx", "gru").final("none", "test_loss")).all()
    (harness.output(copy, "train") / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match="dvc repro train@fx-gru"):
        results.load("fx", "gru")
