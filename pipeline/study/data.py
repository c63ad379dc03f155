"""The study's data: one file per task and split with training, validation and test sequences.

Everything is chosen on validation sequences, and compared on test sequences.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from pipeline import download, paths, records, seeds
from pipeline.fx import acquire, rates, synthetic, windows
from pipeline.params import FxWindows
from pipeline.study.plan import SPLITS, Split, Study, Task
from pipeline.training.problem import Problem, Sequences, from_windows

ROOT = paths.DATA / "study"
VECTORS_MIRROR = "features/bottlenecks_2015.parquet"
PARTS = ("train", "validation", "test")
GENERATED_CLASSES, GENERATED_IMAGES, GENERATED_NOISE = 5, 40, 4.0
"""Size of generated vectors, and the deviation of an image from its class's mean in units of the classes' deviation."""

Integers = npt.NDArray[np.int64]


def folder(profile: str) -> Path:
    """Return where a profile's data files lie."""
    return ROOT / profile / "data"


def file(profile: str, task: Task, split: Split) -> Path:
    """Return the data file of a task and split."""
    return folder(profile) / f"{task}_{split}.safetensors"


@dataclass(frozen=True)
class Data:
    """A problem (training and test) with a validation part."""

    problem: Problem
    validation: Sequences


def prepare(study: Study, profile: str) -> dict[str, Any]:
    """Write a profile's data files and ``source.json``; return what that says.

    Raises:
        FileNotFoundError: there are neither vectors nor features of videos.
        ValueError: a file is damaged.
    """
    record: dict[str, Any] = {}
    pool, parts, scale, offset, record["fx"] = _fx(study)
    _save(file(profile, "fx", "days"), pool, parts, {"head": "identity", "scale": scale, "offset": offset})
    record["clips"] = _clips(study, profile)
    for task in SPLITS:
        record[task]["sequences"] = {split: _sizes(load(file(profile, task, split))) for split in SPLITS[task]}
    records.write_json(folder(profile) / "source.json", record)
    return record


def _sizes(data: Data) -> dict[str, int]:
    return {"train": len(data.problem.train), "validation": len(data.validation), "test": len(data.problem.test)}


Part = tuple[Tensor, Tensor]
"""Rows of the pool ``(N, T)``, and targets ``(N, K)``."""


def _fx(study: Study) -> tuple[Tensor, dict[str, Part], float, float, dict[str, Any]]:
    """Return windows of every so-manieth day, scaled by what is known before the validation tail."""
    options = study.fx_data
    record: dict[str, Any] = {"source": "synthetic"}
    if options.source == "auto":
        original = paths.CHECKPOINTS / "downloads" / "USD_INR.csv"
        try:
            download.fetch(
                acquire.PAPER_URL, original, sha256=acquire.PAPER_SHA256, mirror_path=acquire.PAPER_MIRROR, pause=0.2
            )
            record = {"source": "paper", "sha256": acquire.PAPER_SHA256}
        except download.DownloadError as error:
            print(f"study: {error}\nstudy: the paper's series cannot be had; a SYNTHETIC one stands in and is named so")
    if record["source"] == "paper":
        series = rates.read(original)
    else:
        series = synthetic.generate(options.synthetic_days, study.seed)
    layout = FxWindows(train_end=options.train_end, scaling="z-score")
    made = windows.make_windows(series, layout, fit_through=windows.first_validation_day(series, layout) - 1)
    pools, parts, start = [], {}, 0
    for name in PARTS:
        # Parts alone, so that the name of the test side of a problem can stand for each of them.
        everything = from_windows(made, (name,), (name,), {}).train  # type: ignore[arg-type]
        kept = everything.subset(
            torch.arange(0, len(everything), options.stride if name == "train" else options.test_stride)
        )
        rows, index = torch.unique(kept.index, return_inverse=True)
        pools.append(kept.pool[rows])
        parts[name] = index + start, kept.targets
        start += len(rows)
    test = made.where("test")
    moves = (made.target_raw - made.last_price_raw)[test][:: options.test_stride]
    record |= {"days": len(series), "persistence": float(np.mean(moves**2))}
    return torch.cat(pools), parts, made.target_scale, made.target_offset, record


def _clips(study: Study, profile: str) -> dict[str, Any]:
    """Write clips with no image (or group) on two sides, and clips that share images (or groups)."""
    options, mirror = study.clips_data, paths.mirror()
    vectors = None if mirror is None else mirror / VECTORS_MIRROR
    if options.source == "generated":
        label, pool, classes = _generated(study.seed)
        record: dict[str, Any] = {"source": "generated", "images": len(pool)}
    elif vectors is not None and vectors.is_file():
        from pipeline.video import pseudo

        images = pseudo.read(vectors)
        classes, pool = images.classes, images.vectors
        label = np.array([classes.index(name) for name in images.class_name.tolist()], np.int64)
        record = {"source": "vectors", "images": len(images), "sha256": records.sha256_of(vectors)}
    elif paths.CLIPS_TABLE.is_file() and paths.FEATURES_TABLE.is_file():
        return _videos(study, profile)
    else:
        raise FileNotFoundError(
            f"expected {VECTORS_MIRROR} in the folder that {paths.MIRROR_VARIABLE} names, or {paths.CLIPS_TABLE} and "
            f"{paths.FEATURES_TABLE}, found neither; run `make repro` first, which computes features of the demo videos"
        )
    for split in SPLITS["clips"]:
        sides = _drawn(label, len(classes), study, leaky=split == "leaky")
        _write_clips(file(profile, "clips", split), pool, sides, study, classes)
    return record | {"classes": len(classes)}


def _generated(seed: int) -> tuple[Integers, Tensor, tuple[str, ...]]:
    """Return normal vectors around a mean per class: for tests of the path, never for results."""
    random = seeds.numpy_generator(seed, "study", "generated")
    label = np.repeat(np.arange(GENERATED_CLASSES), GENERATED_IMAGES)
    means = random.normal(size=(GENERATED_CLASSES, 32))
    pool = means[label] + GENERATED_NOISE * random.normal(size=(len(label), 32))
    return label, torch.from_numpy(pool.astype(np.float32)), tuple(f"class {k}" for k in range(GENERATED_CLASSES))


Sides = dict[str, tuple[Integers, Integers]]
"""Per part: rows of the pool ``(N, T)``, and classes ``(N,)``."""


def _drawn(label: Integers, classes: int, study: Study, *, leaky: bool) -> Sides:
    """Draw clips of different images of one class, the parts from images of their own or all from the same.

    Raises:
        ValueError: a class has too few images.
    """
    options = study.clips_data
    found: dict[str, list[tuple[Integers, int]]] = {name: [] for name in PARTS}
    for k in range(classes):
        own = np.flatnonzero(label == k)
        fifth = len(own) // 5
        if fifth < options.per_clip:
            raise ValueError(
                f"expected at least {5 * options.per_clip} images in each class, found {len(own)} in class {k}; lower "
                "per_clip in study/params.yaml"
            )
        order = own[seeds.numpy_generator(study.seed, "study", "images", k).permutation(len(own))]
        shares = {"train": order[2 * fifth :], "validation": order[fifth : 2 * fifth], "test": order[:fifth]}
        random = seeds.numpy_generator(study.seed, "study", "clips", k)
        for name in PARTS:
            count = options.train_per_class if name == "train" else options.test_per_class
            images = order if leaky else shares[name]
            found[name] += [(random.permutation(images)[: options.per_clip], k) for _ in range(count)]
    return {
        name: (np.stack([rows for rows, _ in each]), np.array([k for _, k in each])) for name, each in found.items()
    }


def _videos(study: Study, profile: str) -> dict[str, Any]:
    """Divide the main pipeline's clips by three: whole groups of each class, or clips at random."""
    from pipeline.video import clips as clip_tables
    from pipeline.video import features

    clips, pool = clip_tables.load(paths.CLIPS_TABLE), features.load(paths.FEATURES_TABLE).vectors
    random = seeds.numpy_generator(study.seed, "study", "video clips")
    for split in SPLITS["clips"]:
        side = np.empty(len(clips.label), "<U10")
        for k in range(len(clips.classes)):
            own = np.flatnonzero(clips.label == k)
            units = np.unique(clips.group[own]) if split == "disjoint" else own
            if len(units) < 3:
                raise ValueError(f"expected at least 3 groups in class {clips.classes[k]}, found {len(units)}")
            order, fifth = random.permutation(units), max(1, len(units) // 5)
            chosen = dict(zip(order, ["test"] * fifth + ["validation"] * fifth + ["train"] * len(order), strict=False))
            for clip in own:
                side[clip] = chosen[clips.group[clip] if split == "disjoint" else clip]
        sides = {
            name: (clips.rows[side == name].astype(np.int64), clips.label[side == name].astype(np.int64))
            for name in PARTS
        }
        _write_clips(file(profile, "clips", split), pool, sides, study, tuple(clips.classes))
    return {
        "source": "videos of the main pipeline",
        "sha256": records.sha256_of(paths.FEATURES_TABLE),
        "classes": len(clips.classes),
    }


def _write_clips(destination: Path, pool: Tensor, sides: Sides, study: Study, classes: tuple[str, ...]) -> None:
    from pipeline.video.pseudo import principal_components

    fitted_on = np.unique(sides["train"][0]).astype(np.int32)
    reduced = principal_components(pool, fitted_on, study.clips_data.components)
    parts = {
        name: (torch.from_numpy(rows), functional.one_hot(torch.from_numpy(label), len(classes)).float())
        for name, (rows, label) in sides.items()
    }
    _save(destination, reduced, parts, {"head": "softmax", "scale": 1.0, "offset": 0.0, "classes": list(classes)})


def _save(destination: Path, pool: Tensor, parts: dict[str, Part], about: dict[str, Any]) -> None:
    tensors = {"pool": pool.float().contiguous()}
    for name, (index, targets) in parts.items():
        tensors |= {f"{name}.index": index.long().contiguous(), f"{name}.targets": targets.float().contiguous()}
    records.write_bytes(destination, save(tensors, {"problem": json.dumps(about, sort_keys=True)}))


@lru_cache(maxsize=4)
def load(source: Path) -> Data:
    """Read a data file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected the study's data at {source}, found no such file; run `make study`")
    try:
        with safe_open(source, "pt") as opened:
            about = json.loads(opened.metadata()["problem"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"expected a data file of the study at {source}, found {error!r}; delete it, run it again"
        ) from error
    parts, start = {}, 0
    for name in PARTS:
        count = len(tensors[f"{name}.index"])
        parts[name] = Sequences(
            tensors["pool"], tensors[f"{name}.index"], tensors[f"{name}.targets"], torch.arange(start, start + count)
        )
        start += count
    problem = Problem(
        parts["train"], parts["test"], about["head"], about["scale"], about["offset"],
        tuple(about.get("classes", ())), {source.name: records.sha256_of(source)},
    )  # fmt: skip
    return Data(problem, parts["validation"])
