"""Each distinct frame has one feature, whatever interrupts the work and however many processes share it."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.params import VideoFeatures, VideoFrames
from pipeline.video import features, frames, inception
from pipeline.video.layout import Video
from tests.conftest import ROOT
from tests.video import samples
from tests.video.test_codec import limit

LENGTHS = {"a/1/x": 60, "b/1/y": 90, "b/2/z": 40}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Frames of three short videos and of one bad one: 4 + 6 + 3 of them."""
    root = tmp_path_factory.mktemp("frames")
    videos = [Video(f"{name}.mpg", *name.split("/")[:2]) for name in LENGTHS]
    for video, count in zip(videos, LENGTHS.values(), strict=True):
        samples.video(root / "videos" / video.path, count)
    (root / "videos" / "b" / "3").mkdir()
    (root / "videos" / "b" / "3" / "bad.mpg").write_bytes(b"")
    videos.append(Video("b/3/bad.mpg", "b", "3"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEM_EXECUTOR", "serial")
        frames.extract(videos, root / "videos", VideoFrames(max_bad_fraction=0.5), root / "out", root / "store")
    return root / "out"


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    monkeypatch.setattr(features, "CHUNK", 5)
    monkeypatch.setattr(features, "_loaded", None)


@pytest.fixture(scope="module")
def settings(weights_file):
    return VideoFeatures(weights="file", weights_path=str(weights_file), batch_size=2, device="cpu")


@pytest.fixture(scope="module")
def whole(stored, settings, tmp_path_factory):
    """An uninterrupted run."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEM_EXECUTOR", "serial")
        patch.setattr(features, "CHUNK", 5)
        assert features.extract(stored, settings, 1, root / "out", root / "store") == 13
    return root / "out"


def content(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_table_holds_every_distinct_frame_in_order(stored, whole, random_state):
    table = features.load(whole / "features.parquet")
    assert len(table) == 13
    assert table.video_id == ["a/1/x"] * 4 + ["b/1/y"] * 6 + ["b/2/z"] * 3
    assert table.frame_index.tolist()[:4] == [0, 18, 36, 54]
    assert table.timestamp_s[:4] == pytest.approx(np.array([0, 18, 36, 54]) / 25)
    network = inception.Extractor(random_state, "torchvision")
    direct = network(frames.decode_images(frames.frames_file(stored, "b/1/y")))
    assert table.vectors[4:10].numpy() == pytest.approx(direct, rel=1e-4, abs=1e-4)
    assert table.about["weights"] == "file"
    assert table.about["weights_sha256"] == inception.digest(random_state)
    assert {"preprocessing", "torch", "torchvision", "opencv", "device", "precision"} <= set(table.about)


def test_row_groups_are_chunks(whole):
    file = pq.ParquetFile(whole / "features.parquet")
    assert [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)] == [5, 5, 3]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the maps of Linux")
def test_vectors_are_mapped_not_copied_and_equal_the_table(whole):
    table = features.load(whole / "features.parquet")
    column = pq.read_table(whole / "features.parquet")["feature"].combine_chunks().flatten().to_numpy()
    assert np.array_equal(table.vectors.numpy().reshape(-1), column)
    assert table.mapped
    address = table.vectors.data_ptr()
    assert address % 64 == 0
    ranges = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()
              if line.endswith(str(whole / "vectors.safetensors"))]  # fmt: skip
    assert any(int(low, 16) <= address < int(high, 16) for low, high in ranges)
    table.vectors[0] = -1.0  # reaches memory, never the file
    assert not torch.equal(features.load(whole / "features.parquet").vectors[0], table.vectors[0])


def test_without_the_twin_the_table_alone_gives_the_same(whole, tmp_path):
    (tmp_path / "features.parquet").write_bytes((whole / "features.parquet").read_bytes())
    alone = features.load(tmp_path / "features.parquet")
    assert not alone.mapped
    assert torch.equal(alone.vectors, features.load(whole / "features.parquet").vectors)


def test_a_twin_of_another_table_is_refused(stored, settings, whole, tmp_path):
    other = settings.model_copy(update={"preprocessing": "inception-2015"})
    features.extract(stored, other, 1, tmp_path / "out", tmp_path / "store")
    (tmp_path / "out" / "features.parquet").write_bytes((whole / "features.parquet").read_bytes())
    with pytest.raises(ValueError, match="to belong to"):
        features.load(tmp_path / "out" / "features.parquet")


def test_damaged_files_say_what_to_do(whole, tmp_path):
    for name in ("features.parquet", "vectors.safetensors"):
        for each in ("features.parquet", "vectors.safetensors"):
            data = (whole / each).read_bytes()
            (tmp_path / each).write_bytes(data[: len(data) // 2] if each == name else data)
        with pytest.raises(ValueError, match="run stage features again"):
            features.load(tmp_path / "features.parquet")
    with pytest.raises(FileNotFoundError):
        features.load(tmp_path / "absent.parquet")


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", ["features.parquet", "vectors.safetensors"])
def test_a_flipped_bit_is_an_error_or_changes_nothing(whole, tmp_path, name, alone):
    for each in ("features.parquet", "vectors.safetensors"):
        shutil.copyfile(whole / each, tmp_path / each)
    if alone:
        (tmp_path / "vectors.safetensors").unlink()
        if name == "vectors.safetensors":
            return
    expected = features.load(whole / "features.parquet")
    file, data = tmp_path / name, (whole / name).read_bytes()
    pages = len(data)
    if name == "features.parquet":
        pages -= 8 + int.from_bytes(data[-8:-4], "little")  # a footer holds names and places, which nothing protects
    rng, noticed = random.Random(name), 0
    for at in [*(range(64)), *(rng.randrange(8 * pages) for _ in range(400))]:
        file.write_bytes(data)
        flip(file, at)
        try:
            found = features.load(tmp_path / "features.parquet")
        except ValueError as error:
            assert name in str(error), "the message names the file"
            assert "run stage features again" in str(error)
            noticed += 1
            continue
        assert torch.equal(found.vectors, expected.vectors), f"bit {at}: other numbers"
        assert found.video_id == expected.video_id
        for column in ("frame_index", "timestamp_s", "samples"):
            assert np.array_equal(getattr(found, column), getattr(expected, column)), f"bit {at}: another {column}"
    if alone or name == "vectors.safetensors":
        assert noticed > 380


def test_every_page_of_the_table_has_a_checksum_and_both_files_the_digest(whole):
    table = features.load(whole / "features.parquet")
    raw = (whole / "vectors.safetensors").read_bytes()
    assert table.about["vectors_sha256"] == hashlib.sha256(raw[-4 * 13 * 2048 :]).hexdigest()
    assert load_file(whole / "vectors.safetensors")["vectors"].equal(table.vectors)


def test_a_twin_needs_a_digest(whole, tmp_path):
    """One as it was written before there were digests."""
    table = pq.read_table(whole / "features.parquet").replace_schema_metadata({b"content": b"x"})
    pq.write_table(table, tmp_path / "features.parquet")
    assert torch.equal(
        features.load(tmp_path / "features.parquet").vectors, features.load(whole / "features.parquet").vectors
    )
    vectors = {"vectors": features.load(whole / "features.parquet").vectors}
    save_file(vectors, tmp_path / "vectors.safetensors", {"about": json.dumps({"content": "x"})})
    with pytest.raises(ValueError, match=r"that the table states.*run stage features again"):
        features.load(tmp_path / "features.parquet")


def test_checking_the_digest_holds_no_memory(tmp_path):
    """49 MB of vectors, read in blocks: the process does not grow by them."""
    rows = 6_000
    columns = {"video_id": ["v"] * rows, "frame_index": range(rows), "timestamp_s": [0.0] * rows, "samples": [1] * rows}
    part = np.ones((100, 2048), np.float32)
    features.save(tmp_path, columns, lambda: (part for _ in range(rows // 100)), {"content": "x"})
    features.load(tmp_path / "features.parquet")
    program = (
        "import resource, sys; from pathlib import Path; from pipeline.video import features\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); table = features.load(Path(sys.argv[1])); print(peak() - before)"
    )
    told = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "features.parquet"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert int(told.stdout) < 24_000


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(stored, settings, whole, tmp_path, monkeypatch):
    original, calls = features._compute, []

    def failing(job, images):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(job.result)
        original(job, images)

    monkeypatch.setattr(features, "_compute", failing)
    with pytest.raises(KeyboardInterrupt):
        features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    monkeypatch.setattr(features, "_compute", lambda job, images: calls.append(job.result) or original(job, images))
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    assert len(set(calls)) == len(calls) == 3
    assert content(tmp_path / "out") == content(whole)


def test_finished_chunks_serve_again_but_only_for_what_made_them(stored, settings, whole, tmp_path, monkeypatch):
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    assert content(tmp_path / "out") == content(whole)
    with pytest.raises(pytest.fail.Exception):
        features.extract(stored, settings.model_copy(update={"batch_size": 3}), 1, tmp_path / "o", tmp_path / "store")


def places(content, count):
    """Bits to flip: all of a safetensors header and of what precedes it, and some of the rest."""
    header = 8 * (8 + int.from_bytes(content[:8], "little"))
    rng = random.Random(len(content))
    return [*range(header), *(rng.randrange(header, 8 * len(content)) for _ in range(count))]


def flip(file, at):
    content = bytearray(file.read_bytes())
    content[at // 8] ^= 1 << at % 8
    file.write_bytes(content)


def test_a_bit_that_flips_anywhere_in_a_kept_chunk_makes_it_unusable(stored, settings, tmp_path):
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    file = next((tmp_path / "store").glob("[0-9a-f]*.safetensors"))
    content = file.read_bytes()
    rows = next(n for n in (3, 5) if features._kept(file, n) is not None)
    expected = features._kept(file, rows).copy()
    noticed = 0
    for at in places(content, 300):
        file.write_bytes(content)
        flip(file, at)
        found = features._kept(file, rows)
        assert found is None or np.array_equal(found, expected), f"bit {at}: other numbers"
        noticed += found is None
    assert noticed > 1000
    assert features._kept(file, rows + 1) is None


def test_damage_to_what_is_kept_costs_time_and_never_gives_other_numbers(stored, settings, whole, tmp_path):
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    kept = sorted((tmp_path / "store").iterdir())
    assert len(kept) == 4
    for file in kept:
        flip(file, 8 * file.stat().st_size - 100)
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    assert content(tmp_path / "out") == content(whole)
    for file in kept:
        file.write_bytes(file.read_bytes()[:-100])
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    assert content(tmp_path / "out") == content(whole)


def test_weights_that_are_damaged_while_the_work_goes_on_stop_it(stored, settings, tmp_path, monkeypatch):
    original = features._read_chunk

    def damaging(job):
        flip(job.weights, 8 * job.weights.stat().st_size - 100)
        return original(job)

    monkeypatch.setattr(features, "_read_chunk", damaging)
    with pytest.raises(ValueError, match=r"expected the weights that this run kept .*weights-.*run again"):
        features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")


@pytest.mark.parametrize("size", [4096, 10 << 20])
def test_a_full_disk_says_so(stored, settings, tmp_path, size):
    """The small one has no room for a chunk, the other none for the weights."""
    features.extract(stored, settings, 1, tmp_path / "out", tmp_path / "store")
    for file in (tmp_path / "store").glob("weights-*" if size > 4096 else "[0-9a-f]*.safetensors"):
        file.unlink()
    with limit(size), pytest.raises(OSError, match=r"expected room for .*store"):
        features.extract(stored, settings, 1, tmp_path / "again", tmp_path / "store")
    assert not list((tmp_path / "store").glob(".*"))
    assert not (tmp_path / "again").exists()


def test_missing_frames_are_named(stored, settings, tmp_path):
    shutil.copytree(stored, tmp_path / "frames")
    (tmp_path / "frames" / "b" / "1" / "y.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"y\.parquet"):
        features.extract(tmp_path / "frames", settings, 1, tmp_path / "out", tmp_path / "store")


def test_frames_of_another_form_are_named(stored, settings, tmp_path):
    shutil.copytree(stored, tmp_path / "frames")
    file = tmp_path / "frames" / "b" / "1" / "y.parquet"
    table = pq.read_table(file)
    for damage in (table.drop_columns(["samples"]), table.set_column(0, "frame_index", pa.array(["x"] * len(table)))):
        pq.write_table(damage, file)
        with pytest.raises(ValueError, match=r"expected column .*y\.parquet.*run the stage"):
            features.extract(tmp_path / "frames", settings, 1, tmp_path / "out", tmp_path / "store")
    file.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"y\.parquet, found damage"):
        features.extract(tmp_path / "frames", settings, 1, tmp_path / "out", tmp_path / "store")


def test_a_device_that_is_not_there_is_refused(settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="expected a CUDA device"):
        features.device_of(settings.model_copy(update={"device": "cuda"}))
    assert features.device_of(settings.model_copy(update={"device": "auto"})) == "cpu"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("autocast", 3e-2)])
def test_cuda_agrees_with_the_cpu(stored, settings, whole, tmp_path, precision, tolerance):
    asked = settings.model_copy(update={"device": "cuda", "precision": precision})
    features.extract(stored, asked, 1, tmp_path / "out", tmp_path / "store")
    found = features.load(tmp_path / "out" / "features.parquet")
    expected = features.load(whole / "features.parquet").vectors
    assert found.about["device"] == "cuda"
    assert torch.allclose(found.vectors, expected, rtol=tolerance, atol=tolerance)
