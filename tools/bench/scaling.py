"""How cost grows with the number of networks, clips, slices and frames: exponents, and where they bend."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from nem import CONDITIONS
from pipeline.common import jobs
from pipeline.training.engine import Engine
from pipeline.video.features import inception
from pipeline.video.frames.frames import SIZE
from tools.bench.engine import SIZES, Size, dataset, plan
from tools.bench.rows import Row, median

BENT = 0.25  # a change of the local exponent that counts as a bend
SMALL = replace(SIZES["FX"], train=1024, test=128, epochs=1)


def exponent(name: str, unit: str, sizes: Sequence[int], cost: Callable[[int], float]) -> Row:
    """Return the row of a cost [s] over sizes: the exponent of the whole range, those of its parts in the note."""
    costs = [cost(size) for size in sizes]
    x, y = np.log(sizes), np.log(costs)
    local = np.diff(y) / np.diff(x)
    bends = [f"{sizes[k + 1]:,}" for k in np.flatnonzero(np.abs(np.diff(local)) > BENT).tolist()]
    parts = ", ".join(f"{size:,}: {1e3 * took:.3g} ms" for size, took in zip(sizes, costs, strict=True))
    note = f"{parts}; local exponents {', '.join(f'{slope:.2f}' for slope in local)}; "
    note += f"bends at {', '.join(bends)}" if bends else "no bend"
    return Row("scaling", f"{name} ({sizes[0]:,} to {sizes[-1]:,} {unit})", float(np.polyfit(x, y, 1)[0]), "exponent",
               note=note)  # fmt: skip


def _epoch(size: Size, groups: int, conditions: int) -> float:
    """Return the time of one epoch of a stack on one core [s]."""
    settings = plan(size, "lstm", CONDITIONS[:conditions])

    def once() -> None:
        Engine(dataset(size), settings, seed=1, stream="bench", repetitions=range(groups)).run()

    with jobs.one_thread():
        return median(once, 2)


def networks(count: int) -> float:
    """Return the time of an epoch with so many networks, in stacks of at most 39."""
    groups, conditions = max(1, count // 13), min(count, 13)
    whole, rest = divmod(groups, 3)
    return whole * _epoch(SMALL, 3, conditions) + (_epoch(SMALL, rest, conditions) if rest else 0.0)


def frames(count: int) -> float:
    """Return the time of the features of so many frames [s]."""
    extractor = inception.Extractor(inception.random_weights(1), "torchvision")
    images = np.random.default_rng(1).integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
    with jobs.one_thread():
        return median(lambda: [extractor(images[k : k + 16]) for k in range(0, count, 16)], 1)


def rows() -> Iterator[Row]:
    """Yield the rows."""
    yield exponent("FX, LSTM, networks", "networks", (1, 4, 13, 39, 117), networks)
    clips = replace(SIZES["real video"], test=64, epochs=1)
    yield exponent("real video, LSTM, clips", "clips", (256, 1024, 2048),
                   lambda n: _epoch(replace(clips, train=n), 1, 13))  # fmt: skip
    yield exponent(
        "FX, LSTM, slices of a window", "slices", (1, 4, 16, 32), lambda T: _epoch(replace(SMALL, T=T), 1, 13)
    )
    yield exponent("features, frames", "frames", (1, 4, 16), frames)
