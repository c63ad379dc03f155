"""What a task's sequences are for: classes, values or labels; training, validation and test sides; scales.

Scales are those of the training side alone, so that neither test nor validation sequences are in them.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.common import seeds, sequences
from pipeline.common.sequences import Head
from pipeline.own.arrays import Array, Own, OwnError

if TYPE_CHECKING:
    from pipeline.params import OwnSequences

Strings = npt.NDArray[np.str_]
WHERE = "own.sequences"  # these settings, as messages name them


def head_of(y: Array, wanted: str) -> Head:
    """Return what a network answers: what is ``wanted``, or with ``auto`` what y looks like.

    Whole numbers and names ``(N,)`` are classes, zeros and ones ``(N, K)`` labels, all other numbers values. Rows with
    one 1 each could be either, which is an :class:`OwnError`, as is a y that the wanted head cannot have.
    """
    binary = y.dtype.kind in "if" and bool(np.isin(y, (0, 1)).all())
    one_each = y.ndim == 2 and y.shape[1] > 1 and binary and bool((y.sum(1) == 1).all())
    if wanted == "auto":
        if one_each:
            raise OwnError("expected y to tell classes from labels, found a single 1 in every row; set "
                           f"{WHERE}.head to softmax (classes) or logistic (labels)")  # fmt: skip
        classes = y.ndim == 1 and y.dtype.kind != "f"
        return "logistic" if y.ndim == 2 and binary else "softmax" if classes else "identity"
    whole = y.ndim == 1 and (y.dtype.kind != "f" or bool((y == np.round(y)).all()))
    fits = {"softmax": whole or one_each, "logistic": binary, "identity": y.dtype.kind in "if"}
    words = {"softmax": "names or whole numbers (N,), or rows with a single 1 (N, K)",
             "logistic": "zeros and ones (N, K)", "identity": "numbers (N,) or (N, K)"}  # fmt: skip
    if not fits[wanted]:
        shown = y.ravel()[:5].tolist()
        raise OwnError(f"expected {words[wanted]} in y with {WHERE}.head {wanted}, found {y.dtype} of shape {y.shape} "
                       f"such as {shown}; correct y, or set the head to auto")  # fmt: skip
    return wanted  # type: ignore[return-value]  # one of its keys


def _deal(units: Iterable[Any], settings: "OwnSequences", test: int | None = None) -> dict[Any, str]:
    """Return the side of each unit: the first ones, ``test`` or a share, are for testing, the next for validation."""
    order = list(units)
    n = len(order)
    test = test or min(max(round(n * settings.test_fraction), 1), n - 1)
    rest = n - test
    validation = min(round(rest * settings.validation_fraction), rest - 1)
    return dict(zip(order, ["test"] * test + ["validation"] * validation + ["train"] * n, strict=False))


def sides(own: Own, labels: npt.NDArray[np.int64] | None, settings: "OwnSequences", seed: int) -> tuple[str, Strings]:
    """Return the name of the split and the side ``(N,)`` of each sequence; too few to split are an ``OwnError``.

    At random, each class is dealt by itself. By groups, no group is on two sides. By order, the last are for testing
    and those before them for validation.
    """
    kind = settings.split if settings.split != "auto" else "random" if own.group is None else "groups"
    random, N = seeds.numpy_generator(seed, "own", "split", kind), len(own.lengths)
    if kind != "groups":
        if settings.test_groups is not None:
            raise OwnError(f"expected no {WHERE}.test_groups with the split {kind}, found some; set split to groups")
        strata = np.zeros(N, np.int64) if labels is None or kind == "order" else labels
        side = dict[int, str]()
        for k in np.unique(strata):
            place = np.flatnonzero(strata == k)
            side |= _deal((place[::-1] if kind == "order" else random.permutation(place)).tolist(), settings)
        return kind, np.array([side[i] for i in range(N)])
    if own.group is None:
        raise OwnError(f"expected a group of each sequence for the split groups, found none; add group, or set "
                       f"{WHERE}.split to random or order")  # fmt: skip
    names = sorted(set(own.group))
    if len(names) < 2:
        raise OwnError(f"expected two groups or more, found {names}; set {WHERE}.split to random or order")
    wanted = {str(name) for name in settings.test_groups or ()}
    if wanted and not wanted < set(names):
        raise OwnError(f"expected {WHERE}.test_groups to be some of the {len(names)} groups and not all, found "
                       f"{sorted(wanted)}; the groups are {', '.join(names[:20])}")  # fmt: skip
    order = sorted(map(str, random.permutation(names)), key=lambda name: name not in wanted)
    dealt = _deal(order, settings, len(wanted))
    return kind, np.array([dealt[name] for name in own.group])


def _index(own: Own, slices: int | None) -> npt.NDArray[np.int64]:
    """Return the rows ``(N, T)`` of the last T slices of each sequence, -1 before the first of one that has fewer."""
    T, ends = min(int(own.lengths.max()), slices or sys.maxsize), np.cumsum(own.lengths)[:, None]
    index = ends + np.arange(-T, 0)
    return np.where(index < ends - own.lengths[:, None], -1, index)


def _scaler(values: Array, kind: str) -> tuple[Array, Array]:
    """Return offset and scale of each column of ``(n, I)`` numbers; a constant column gets scale 1."""
    if kind == "none":
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    low, high = values.min(0), values.max(0)
    offset, scale = (low, high - low) if kind == "min-max" else (values.mean(0, np.float64), values.std(0, np.float64))
    return offset.astype(np.float64), np.where(high > low, scale, 1.0).astype(np.float64)


def table(own: Own, settings: "OwnSequences", seed: int, unit: str = "") -> sequences.Table:
    """Return the sequences as training takes them: head, targets, one split, scaled inputs.

    ``seed`` is the root of the seed tree; ``unit`` is that of values in y. An ``OwnError`` says that they cannot be
    cut, split or learned as asked: lengths, groups, a class that no training sequence has, values that never change.
    """
    head, y = head_of(own.y, settings.head), own.y
    names: Array = np.array([], str)
    labels = None
    if head == "softmax":
        names, labels = (np.arange(y.shape[1]), y.argmax(1)) if y.ndim == 2 else np.unique(y, return_inverse=True)
        if len(names) < 2:
            raise OwnError(f"expected two classes or more in y, found only {names.tolist()}; add others")
        names = names.astype(np.int64) if names.dtype.kind == "f" else names
    kind, side = sides(own, labels, settings, seed)
    index, train = _index(own, settings.slices), side == "train"
    if not (train.any() and (side == "test").any()):
        raise OwnError(f"expected sequences to train and to test on, found {len(side)} in all, one of each class; "
                       f"add sequences, or set {WHERE}.head to identity if whole numbers in y are values")  # fmt: skip
    offset, scale = 0.0, 1.0
    if labels is not None:
        targets = np.eye(len(names))[labels]
    else:
        targets = (y[:, None] if y.ndim == 1 else y).astype(np.float64)
        names = np.arange(targets.shape[1]) if head == "logistic" else names
    if head != "identity":
        lacking = [str(name) for name, there in zip(names.tolist(), targets[train].any(0), strict=True) if not there]
        if lacking:
            what = "class" if head == "softmax" else "label"
            raise OwnError(f"expected every {what} in a training sequence, found {len(lacking)} in none "
                           f"({', '.join(lacking[:9])}); add sequences, leave the {what} out, or split otherwise "
                           f"({WHERE}.split is {kind})")  # fmt: skip
    else:
        with np.errstate(over="ignore"):  # what becomes infinite is refused
            offset, scale = float(targets[train].mean()), float(targets[train].std())
        if not np.ptp(targets[train]) or not np.isfinite([offset, scale]).all():
            raise OwnError(f"expected values that differ in y of the training sequences, found {targets[train][0]} and "
                           "the like; check y")  # fmt: skip
        targets = (targets - offset) / scale
    pool, seen = own.slices, index[train]
    move, by = _scaler(pool[seen[seen >= 0]], settings.scaling)
    with np.errstate(over="ignore"):
        scaled = ((pool - move) / by).astype(np.float32)
    if not np.isfinite(scaled).all():
        raise OwnError("expected inputs that the scale of the training sequences can hold, found larger ones; check x")
    inputs = {"offset": move.tolist(), "scale": by.tolist()}
    return sequences.Table(
        np.arange(len(y)), index, targets.astype(np.float32), own.group, {kind: side}, {"": scaled},
        head, scale, offset, unit if head == "identity" else "", tuple(map(str, names.tolist())),
        {"inputs": inputs, "scaling": settings.scaling},
    )  # fmt: skip
