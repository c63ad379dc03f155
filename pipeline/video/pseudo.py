"""Pseudo-clips: sequences of feature vectors of still images of one class, where no videos can be had.

A file of ``class, image, feature`` rows (true Inception-v3 vectors, say) becomes clips in the form of
:mod:`pipeline.video.clips`: a pseudo-clip is ``per_clip`` different images of one class in random order. It has no
motion, so a recurrent network can only pool what single images show.

Both splits are over the same clips, as for videos. The images of each class are divided into training and test images
first and every clip is drawn within one side: by groups, test clips are those of test images, and no image is on both
sides. At random, any clip of a class may be for testing, and shares images with training clips.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from pipeline import paths, records, seeds
from pipeline.params import VideoAcquire, VideoClips
from pipeline.video import archive, features, frames
from pipeline.video.clips import Clips, ClipsError
from pipeline.video.inception import WIDTH

MIRROR = "features/bottlenecks_2015.parquet"
"""The file's place in the mirror: 3,080 true vectors of the 2015 Inception-v3, 13 classes of flowers and clothes."""
SHA256 = "ef604e8d1cce6c7af2c83df40f849173a321d01e12deae86110704b868ecfde3"
ORIGIN = (
    "TensorFlow retrain outputs in the public repositories mangorocoro/racedetector and "
    "brandonflint/tensorflow_flower_classifications"
)
NOTE = "pseudo-clips: still images of one class in random order, no videos, no motion"
SLICES = 7
"""T of the paper: frames per clip."""
SIDES = {False: "training images", True: "test images"}
"""Groups of pseudo-clips: which images a clip is drawn from."""

Strings = npt.NDArray[np.str_]


class VectorsError(ValueError):
    """A file of vectors that cannot be used."""


@dataclass(frozen=True)
class Images:
    """Feature vectors of different images, ordered by class and name.

    Attributes:
        class_name: ``(P,)`` class of each image.
        name: ``(P,)`` its name; equal vectors under several names are one image, under the first of them.
        vectors: ``(P, 2048)`` float32.
        copies: rows of the file that were left out since they equal another.
    """

    class_name: Strings
    name: Strings
    vectors: Tensor
    copies: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.name)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted(set(self.class_name.tolist())))


def read(source: Path) -> Images:
    """Read a parquet file with the columns ``class``, ``image`` and ``feature`` (lists of 2048 numbers).

    The acquired copy (:data:`paths.VIDEO_VECTORS`) must have the hash that its record states: whoever wrote the file
    may have left out the checksums of its pages.

    Raises:
        FileNotFoundError: no such file.
        VectorsError: the acquired copy is not what was acquired, a column is missing or of another kind, a vector is
            missing, of another length or not finite, or equal vectors stand under different classes.
        ValueError: the file is damaged.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected feature vectors of images at {source}, found no such file")
    if source == paths.VIDEO_VECTORS:
        stated, found = _record().get("sha256"), records.sha256_of(source)
        if found != stated:
            raise VectorsError(
                f"expected SHA-256 {stated} for {source}, as acquired, found {found}: damage; run "
                "`dvc repro -f acquire@video`"
            )
    table = records.read_table(source)
    names = _strings(table, "class", source), _strings(table, "image", source)
    vectors = _vectors(table, source)
    order = sorted(range(len(table)), key=lambda row: (names[0][row], names[1][row]))
    first: dict[bytes, int] = {}
    for row in order:
        seen = first.setdefault(vectors[row].tobytes(), row)
        if names[0][seen] != names[0][row]:
            raise VectorsError(
                f"expected each image of {source} in one class, found equal vectors for {names[0][seen]}/"
                f"{names[1][seen]} and {names[0][row]}/{names[1][row]}; remove one of them"
            )
    kept = list(first.values())
    return Images(
        np.array([names[0][row] for row in kept], str),
        np.array([names[1][row] for row in kept], str),
        torch.from_numpy(vectors[kept]),
        len(table) - len(kept),
    )


def acquire(settings: VideoAcquire) -> None:
    """Put a checked file of vectors at :data:`paths.VIDEO_VECTORS`, its provenance beside it.

    Args:
        settings: ``vectors_path``, or ``None`` for the file of the mirror.

    Raises:
        FileNotFoundError: the named file is not there, or there is none in the mirror.
        VectorsError: it is not of vectors, or the mirror's is another than the known one.
        ValueError: the file is damaged.
    """
    if settings.vectors_path is not None:
        source, origin = Path(settings.vectors_path), Path(settings.vectors_path).name
    else:
        source, origin = _in_mirror(), ORIGIN
    images = read(source)
    shutil.rmtree(paths.VIDEO_RAW, ignore_errors=True)
    archive.copy(source, paths.VIDEO_VECTORS)
    counts = Counter(images.class_name.tolist())
    record = {
        "source": "vectors",
        "note": NOTE,
        "origin": origin,
        "sha256": records.sha256_of(paths.VIDEO_VECTORS),
        "images": len(images),
        "copies_left_out": images.copies,
        "classes": {name: {"images": counts[name]} for name in images.classes},
    }
    records.write_json(paths.source_record("video"), record)
    print(f"video: vectors of {len(images)} images of {len(images.classes)} classes, {images.copies} copies left out")


def _in_mirror() -> Path:
    folder = paths.mirror()
    if folder is None or not (folder / MIRROR).is_file():
        raise FileNotFoundError(
            f"expected {MIRROR} in the folder that {paths.MIRROR_VARIABLE} names, found "
            f"{'the variable unset' if folder is None else 'no such file'}; it is put together from {ORIGIN} and has "
            "no address to download it from. Name a file of your own in video.acquire.vectors_path"
        )
    found = records.sha256_of(folder / MIRROR)
    if found != SHA256:
        raise VectorsError(
            f"expected SHA-256 {SHA256} for {MIRROR} in the mirror, found {found}; replace the file, or name it in "
            "video.acquire.vectors_path to use it as your own"
        )
    return folder / MIRROR


def acquired() -> bool:
    """Return whether what was acquired are vectors, not videos.

    Raises:
        FileNotFoundError: nothing was acquired.
        ValueError: the record of it is damaged.
    """
    return bool(_record()["source"] == "vectors")


def _record() -> dict[str, object]:
    """The record of what was acquired."""
    file = paths.source_record("video")
    found = records.read_json(file)
    if not isinstance(found, dict) or "source" not in found:
        raise VectorsError(f"expected a record with a source in {file}, found none; run `dvc repro -f acquire@video`")
    return found


def write_manifest(destination: Path) -> None:
    """Write the manifest of stage frames for a source without videos: no rows, and why."""
    shutil.rmtree(destination, ignore_errors=True)
    empty = frames.MANIFEST_SCHEMA.empty_table()
    records.write_table(destination / "manifest.parquet", empty, {"note": f"no frames to sample; {NOTE}"})


def write_features(images: Images, destination: Path) -> None:
    """Write the images' vectors as a feature table: a row for each image, as if it were a video of one frame."""
    count, vectors = len(images), images.vectors.numpy()
    columns: dict[str, Sequence[object]] = {
        "video_id": [f"{c}/{name}" for c, name in zip(images.class_name, images.name, strict=True)],
        "frame_index": [0] * count,
        "timestamp_s": [0.0] * count,
        "samples": [1] * count,
    }
    parts = [vectors[start : start + features.CHUNK] for start in range(0, count, features.CHUNK)]
    content = hashlib.sha256(vectors.tobytes()).hexdigest()
    features.save(destination, columns, lambda: parts, {"weights": "unknown", "content": content})


def _strings(table: pa.Table, column: str, source: Path) -> list[str]:
    found = table.schema.field(column).type if column in table.column_names else None
    if found is None or not (pa.types.is_string(found) or pa.types.is_large_string(found)):
        raise VectorsError(
            f"expected a column {column!r} of strings in {source}, found "
            f"{'no such column' if found is None else found}; its columns must be class, image and feature"
        )
    values: list[str | None] = table[column].to_pylist()
    empty = [row for row, value in enumerate(values) if not value]
    if empty:
        raise VectorsError(f"expected a {column} in every row of {source}, found none in row {empty[0]}")
    return [str(value) for value in values]


def _vectors(table: pa.Table, source: Path) -> npt.NDArray[np.float32]:
    kind = table.schema.field("feature").type if "feature" in table.column_names else None
    lists = kind is not None and (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )
    if kind is None or not lists or not pa.types.is_floating(kind.value_type):
        raise VectorsError(
            f"expected a column 'feature' of lists of numbers in {source}, found "
            f"{'no such column' if kind is None else kind}; its columns must be class, image and feature"
        )
    column = table["feature"].combine_chunks()
    if not len(column):
        raise VectorsError(f"expected at least one image in {source}, found none")
    lengths = set(pc.list_value_length(column).to_pylist())
    if lengths != {WIDTH}:
        raise VectorsError(f"expected {WIDTH} numbers per image in {source}, found {sorted(map(str, lengths))[:5]}")
    vectors = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, WIDTH)
    broken = np.flatnonzero(~np.isfinite(vectors).all(1))
    if len(broken):
        raise VectorsError(f"expected finite numbers in {source}, found NaN or infinity in row {broken[0]}")
    # A zero of either sign is one number; equal vectors must have equal bytes.
    return np.asarray(vectors + np.float32(0), np.float32)


def make(images: Images, settings: VideoClips, seed: int, per_clip: int = SLICES) -> Clips:
    """Return pseudo-clips with both splits: ``settings.per_class`` of each class.

    Args:
        images: the images; ``rows`` of the clips are positions among them.
        settings: clips per class, and the share of images and of clips that is for testing.
        seed: root of the seed tree.
        per_clip: T, different images per clip.

    Raises:
        ClipsError: too few images in a class, no clips on one side of a split, or a group to leave out.
    """
    classes, total = images.classes, settings.per_class
    if settings.leave_group_out is not None:
        raise ClipsError(
            f"expected no group to leave out, since images have no groups, found {settings.leave_group_out!r}; "
            "set video.clips.leave_group_out to null"
        )
    held_out = round(total * settings.test_fraction)
    if not 0 < held_out < total:
        raise ClipsError(
            f"expected clips on both sides of the split by images, found {held_out} of {total} for testing in each "
            "class; change video.clips.per_class or video.clips.test_fraction"
        )
    rows, faults, leaky = [], [], []
    for name in classes:
        # As many of each class on each side as with the images, so that the splits differ in the leak alone.
        leaky.append(seeds.numpy_generator(seed, "pseudo", "split", name).permutation(total) < held_out)
        own = np.flatnonzero(images.class_name == name)
        if len(own) < 2 * per_clip:
            faults.append(f"{name} has {len(own)}")
            continue
        count = min(len(own) - per_clip, max(per_clip, round(len(own) * settings.test_fraction)))
        order = own[seeds.numpy_generator(seed, "pseudo", "images", name).permutation(len(own))]
        random = seeds.numpy_generator(seed, "pseudo", "clips", name)
        for side, clips_here in ((order[count:], total - held_out), (order[:count], held_out)):
            rows += [random.permutation(side)[:per_clip] for _ in range(clips_here)]
    if faults:
        raise ClipsError(
            f"expected at least {2 * per_clip} different images in each class, {per_clip} for each side of the split, "
            f"found: {'; '.join(faults)}. Add images, remove the class, or lower video.frames.per_clip"
        )
    test = np.tile(np.arange(total) >= total - held_out, len(classes))
    label = np.repeat(np.arange(len(classes), dtype=np.int32), total)
    return Clips(
        np.arange(len(label), dtype=np.int32),
        np.array([f"{name}/{clip:05d}" for name in classes for clip in range(total)], str),
        label,
        np.array([SIDES[bool(each)] for each in test], str),
        np.stack(rows).astype(np.int32),
        np.zeros(len(label)),
        np.where(np.concatenate(leaky), "test", "train"),
        np.where(test, "test", "train"),
        classes,
    )


def principal_components(vectors: Tensor, fitted_on: npt.NDArray[np.int32], components: int) -> Tensor:
    """Return vectors in the principal axes of some of them: centred and rotated, not scaled.

    Args:
        vectors: ``(P, I)``.
        fitted_on: rows that mean and axes are computed from.
        components: how many axes to keep, those of the largest variance first.

    Returns:
        ``(P, components)`` float32; axes point where their largest entry is positive.

    Raises:
        ValueError: more components than rows or features.
    """
    from sklearn.decomposition import PCA

    most = min(len(fitted_on), vectors.shape[1])
    if not 0 < components <= most:
        raise ValueError(f"expected 1 to {most} principal components, found {components}")
    values = vectors.double().numpy()
    # One thread: sums differ with the number of threads, and results must not.
    with threadpool_limits(1):
        solver = "full" if 4 * len(fitted_on) < vectors.shape[1] else "covariance_eigh"  # the faster one
        fitted = PCA(components, svd_solver=solver).fit(values[fitted_on])
        return torch.from_numpy(fitted.transform(values).astype(np.float32))
