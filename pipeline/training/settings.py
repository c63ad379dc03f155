"""What decides the result of training a network, but for its data, seed and repetition."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, StrictBool
from pydantic.dataclasses import dataclass

from nem.conditions import MODES, Condition, Mode
from nem.names import CellName, DensityName, Granularity, Injection, Latent, OutputDelta, OutputTest

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
class Densities:
    """What noise is drawn from (:mod:`nem.densities`), per place; both modes of a place share their draws."""

    output: DensityName = "gaussian"
    hidden: DensityName = "gaussian"

    def of(self, place: Place) -> DensityName:
        """Return the density of one place."""
        return self.output if place == "output" else self.hidden


@dataclass(frozen=True)
class NoiseTable:
    """Strengths of the noise per place and mode [scaled target | gate units]."""

    output_additive: Strength
    output_multiplicative: Strength
    hidden_additive: Strength
    hidden_multiplicative: Strength

    def of(self, place: Place, mode: Mode) -> Strength:
        """Return the strength of one place and mode."""
        strength: Strength = getattr(self, f"{place}_{mode}")
        return strength

    def as_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return ``{place: {mode: {"sigma": ., "decay": .}}}``, as ``params.yaml`` has it."""
        return {place: {mode: dataclasses.asdict(self.of(place, mode)) for mode in MODES} for place in PLACES}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Settings:
    """All that decides a stack's result but data, seed, and repetition; a ValueError names what is out of range."""

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
    densities: Densities = Densities()  # of the noise
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
        for own in (Condition.parse(name) for name in self.conditions if name.startswith("expected-")):
            for place, concerned in (("output", own.in_output), ("hidden", own.in_hidden)):
                density = getattr(self.densities, place)
                if concerned and density != "gaussian":
                    raise ValueError(
                        f"expected noise.density.{place} gaussian for {own.name}, a mean in closed form, "
                        f"found {density!r}; leave the condition out"
                    )

    def shared(self) -> "Settings":
        """Return what networks of one stack have in common: all but learning rate and strengths, which are 0 here."""
        return dataclasses.replace(self, learning_rate=0.0, noise=NoiseTable(*(Strength(0.0, 0.0),) * 4))

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for records, digests and MLflow."""
        values, noise = dataclasses.asdict(self), self.noise.as_dict()
        return {**values, "noise": {"density": values.pop("densities"), **noise}, "conditions": list(self.conditions)}


def of(shared: Mapping[str, Any], network: Mapping[str, Any], cell: str) -> Settings:
    """Return the settings of a cell: ``shared`` is ``training`` of ``params.yaml``, ``network`` that of task and cell.

    What decides no result is left out of ``shared``; a network with an unknown name, or without noise, is an error.
    """
    known = {field.name for field in dataclasses.fields(Settings)}
    values = {name: value for name, value in shared.items() if name in known} | dict(network)
    noise = {f"{place}_{mode}": network["noise"][place][mode] for place in PLACES for mode in MODES}
    return Settings(**values | {"cell": cell, "noise": noise, "densities": network["noise"].get("density", {})})
