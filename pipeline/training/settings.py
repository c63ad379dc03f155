"""What decides the result of training a network, but for its data, seed and repetition."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StrictBool, ValidationError
from pydantic.dataclasses import dataclass

from nem.cells import CellName
from nem.conditions import MODES, Mode
from nem.noise import Granularity, Injection, Latent, OutputDelta, OutputTest

Place = Literal["output", "hidden"]
Share = Literal["sequence", "batch", "epoch"]
PLACES: tuple[Place, ...] = get_args(Place)
Whole = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Strength:
    """The noise of one place and mode: standard deviation ``sigma / (1 + epoch)^decay``, epoch from 0."""

    sigma: Number
    decay: Number


@dataclass(frozen=True)
class NoiseTable:
    """Strengths of the noise per place and mode [scaled target | gate units]."""

    output_additive: Strength
    output_multiplicative: Strength
    hidden_additive: Strength
    hidden_multiplicative: Strength

    def sigma(self, place: Place, mode: Mode) -> float:
        """Return the standard deviation in epoch 0."""
        return float(getattr(self, f"{place}_{mode}").sigma)

    def decay(self, place: Place, mode: Mode) -> float:
        """Return the exponent of the annealing."""
        return float(getattr(self, f"{place}_{mode}").decay)

    def as_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return ``{place: {mode: {"sigma": ., "decay": .}}}``, as ``params.yaml`` has it."""
        return {p: {m: dataclasses.asdict(getattr(self, f"{p}_{m}")) for m in MODES} for p in PLACES}


@dataclass(frozen=True)
class Settings:
    """All that decides a stack's result but data, seed, and repetition.

    Raises:
        ValueError: a value is of another type or out of range; the message names the parameter.
    """

    cell: CellName
    hidden: Whole  # J, hidden units
    epochs: Whole  # R, after which results are read
    max_epochs: Whole  # last epoch trained
    batch_size: Whole  # B, sequences per gradient step
    optimiser: Literal["sgd", "adam", "rmsprop"]
    learning_rate: Number
    momentum: Number  # of sgd and rmsprop
    noise: NoiseTable
    conditions: tuple[str, ...]  # by name
    hidden_injection: Injection = "forward"  # this and the next three: :class:`nem.noise.GateNoise`
    latent: Latent = "mean-field"
    granularity: Granularity = "slice"
    gate_clamp: StrictBool = False
    output_delta: OutputDelta = "loss"  # :func:`nem.stack.error_gradient`
    first_target: Whole | None = None  # t0, first slice with a target, from 1; ``None``: the last
    probe: Whole = 1024  # training sequences that the clean training loss is measured on
    noise_benefit: StrictBool = False  # log Q_N - Q (70) per epoch
    # Readings of the paper that `make why` compares; no parameters of the pipeline.
    one_draw_per: Share = "sequence"  # all sequences of a ``batch``, or of an ``epoch``, receive the same draws
    output_test: OutputTest = "likelihood"  # :class:`nem.noise.OutputNoise`

    def __post_init__(self) -> None:
        if self.max_epochs < self.epochs:
            raise ValueError(f"expected max_epochs of at least epochs = {self.epochs}, found {self.max_epochs}")
        if not self.conditions or len(set(self.conditions)) != len(self.conditions):
            raise ValueError(f"expected conditions to name each noise condition once, found {list(self.conditions)}")

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for records, digests and MLflow."""
        return {**dataclasses.asdict(self), "noise": self.noise.as_dict(), "conditions": list(self.conditions)}


def of(shared: Mapping[str, Any], network: Mapping[str, Any], cell: str) -> Settings:
    """Return the settings of one cell of a task.

    ``shared`` is ``training`` of ``params.yaml``; what decides no result is left out. ``network`` is ``train.<task>``,
    with what differs per cell under the cell's name; ``None`` there means: as for the task.

    Raises:
        ValueError: a value is missing, unknown or out of range; the message names the parameter.
    """
    own = {name: value for name, value in network.items() if name not in get_args(CellName)}
    merged, known = _merged(own, network.get(cell) or {}), {field.name for field in dataclasses.fields(Settings)}
    for name in merged:
        if name not in known:
            raise ValueError(f"expected parameters of a network, found {name!r}; remove it")
    values = {name: value for name, value in shared.items() if name in known} | merged | {"cell": cell}
    places = values.get("noise") or {}
    values["noise"] = {f"{place}_{mode}": places.get(place, {}).get(mode) for place in PLACES for mode in MODES}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ValueError(_told(error)) from error


def _told(error: ValidationError) -> str:
    """Return the first fault in the house's words."""
    fault = error.errors(include_url=False)[0]
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    first, *inner = map(str, fault["loc"])
    path = ".".join([first, *(part.replace("_", ".") for part in inner)])
    if fault["type"] == "missing":
        return f"expected a value for {path}, found none; add it to params.yaml"
    wanted = fault["msg"].removeprefix("Input should be ").replace("'", "")
    return f"expected {path} to be {wanted}, found {fault['input']!r}; correct it"


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` in it, section by section."""
    out = dict(base)
    for name, value in changes.items():
        if isinstance(value, Mapping):
            out[name] = _merged(base.get(name) or {}, value)
        elif value is not None:
            out[name] = value
    return out
