"""What the study trains: its parameters (``study/params.yaml``) and the settings that follow from them.

Two steps. The *map* trains every condition over learning rate × σ × annealing, with few repetitions and seeds of their
own; what it measures on the validation part chooses settings. The *finals* train the chosen settings with more
repetitions and other seeds, and only they are compared.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd
from pydantic import Field, ValidationError
from ruamel.yaml import YAML

from pipeline.conditions import CONDITIONS
from pipeline.params import Cell, CellTraining, ModeValues, PlaceValues, Section, Training

Task = Literal["fx", "clips"]
Split = Literal["days", "disjoint", "leaky"]
Optimiser = Literal["sgd", "adam"]
Profile = Literal["full", "quick"]
TASKS: tuple[Task, ...] = get_args(Task)
CELLS: tuple[Cell, ...] = get_args(Cell)
SPLITS: dict[Task, tuple[Split, ...]] = {"fx": ("days",), "clips": ("disjoint", "leaky")}
PARAMS = Path("study/params.yaml")

SINGLE = tuple(f"{mode}-{place}" for mode in ("additive", "multiplicative") for place in ("output", "hidden"))
BESIDE: dict[str, str] = {f"{kind}-{rest}": f"nem-{rest}" for kind in ("matched", "expected-nem") for rest in SINGLE}
"""Matched blind noise and expected NEM, which stand beside NEM noise at its setting, by mode and layer."""
EVERY: tuple[str, ...] = (*CONDITIONS, *BESIDE)
"""Conditions of the comparisons; the map has the paper's 13."""

NEM = tuple(name for name in CONDITIONS if name.startswith("nem"))
REGIMES = ("tuned", "slow")
"""``tuned``: learning rate, σ and annealing chosen for each condition, the noiseless net's rate among more of them;
``slow``: the smallest SGD rate for all, σ and annealing chosen for each condition."""

SAME_RATE = "same rate"
"""Purpose of noiseless nets at the rates that were chosen for others in the regime ``tuned``."""

VARIANTS: dict[str, dict[str, str]] = {
    "base": {},
    "time": {"granularity": "time"},
    "neuron": {"granularity": "neuron"},
    "backward": {"injection": "backward"},
    "sampled": {"latent": "sampled"},
}


class Grid(Section):
    """What is varied for one task, and the size of its networks."""

    hidden: int = Field(ge=1, description="J, hidden units")
    batch_size: int = Field(ge=1, description="B, sequences per step")
    epochs: int = Field(ge=1, description="R, epochs at which results are read")
    max_epochs: int = Field(ge=1, description="train on to here, to place negative speed-ups")
    sgd: list[float] = Field(min_length=1, description="learning rates of the map with SGD; the first is `slow`")
    adam: list[float] = Field(description="learning rates of the map with Adam")
    noiseless_sgd: list[float] = Field(description="further SGD rates for the noiseless net alone")
    noiseless_adam: list[float] = Field(description="further Adam rates for the noiseless net alone")
    sigmas: list[float] = Field(min_length=1, description="σ of output [scaled target] and gates [gate units]")
    decays: list[float] = Field(min_length=1, description="annealing, σ/(1 + epoch)^decay")
    central_rate: float = Field(description="SGD rate of the comparison of variants")
    central_sigma: float = Field(description="its σ")
    central_decay: float = Field(description="its annealing")


class FxData(Section):
    """The exchange-rate series and its windows."""

    source: Literal["auto", "synthetic"] = Field(description="auto: the paper's series where it can be had")
    train_end: int = Field(ge=1, description="last training day, 0-based [day]")
    stride: int = Field(ge=1, description="every so-manieth training window is used")
    test_stride: int = Field(ge=1, description="every so-manieth validation and test window is used")
    synthetic_days: int = Field(ge=100, description="length of the synthetic series [days]")


class ClipsData(Section):
    """Pseudo-clips of feature vectors."""

    source: Literal["auto", "generated"] = Field(
        description="auto: the mirror's Inception vectors, else the features that `make repro` computed"
    )
    components: int = Field(ge=1, description="principal components of the training vectors")
    per_clip: int = Field(ge=1, description="T, vectors per clip")
    train_per_class: int = Field(ge=1, description="training clips per class")
    test_per_class: int = Field(ge=1, description="validation clips per class, and as many test clips")


class Study(Section):
    """Parameters of one profile of the study."""

    seed: int = Field(ge=0, lt=2**63, description="root of the seed tree")
    map_repetitions: int = Field(ge=1, description="paired repetitions of the map")
    final_repetitions: int = Field(ge=1, description="paired repetitions of the comparisons at chosen settings")
    check_repetitions: int = Field(ge=1, description="paired repetitions of variants and tests of the theory")
    confidence: float = Field(gt=0, lt=1, description="level of intervals")
    bootstrap: int = Field(ge=100, description="bootstrap resamples")
    fx_data: FxData
    clips_data: ClipsData
    fx: Grid
    clips: Grid

    def grid(self, task: Task) -> Grid:
        """Return the grid of a task."""
        return self.fx if task == "fx" else self.clips


def load(profile: str, source: Path = PARAMS) -> Study:
    """Read a profile of the study.

    Raises:
        FileNotFoundError: no parameter file.
        ValueError: no such profile, or a parameter is unknown or out of range.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected the study's parameters at {source}, found none; run from the project's root")
    content = YAML(typ="safe", pure=True).load(source.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or profile not in content:
        raise ValueError(f"expected profile {profile!r} in {source}, found {sorted(content or {})}")
    try:
        return Study.model_validate(content[profile])
    except ValidationError as error:
        raise ValueError(f"expected usable parameters for profile {profile} in {source}, found {error}") from error


@dataclass(frozen=True)
class Setting:
    """One stack of networks, but for repetition and seed.

    Attributes:
        task: exchange rate or clips.
        cell: the recurrent cell.
        split: how sequences are divided.
        optimiser: update rule.
        rate: learning rate.
        sigma: standard deviation of the noise, in output and gates alike.
        decay: annealing.
        conditions: noise conditions, ``none`` among them.
        granularity, injection, latent: as in :class:`pipeline.params.Training`.
    """

    task: Task
    cell: Cell
    split: Split
    optimiser: Optimiser
    rate: float
    sigma: float
    decay: float
    conditions: tuple[str, ...]
    granularity: str = "slice"
    injection: str = "forward"
    latent: str = "mean-field"

    def axes(self) -> dict[str, Any]:
        """Return everything but the conditions."""
        return {key: value for key, value in asdict(self).items() if key != "conditions"}

    def networks(self, grid: Grid) -> CellTraining:
        """Return the engine's settings."""
        both = ModeValues(additive=self.sigma, multiplicative=self.sigma)
        slow = ModeValues(additive=self.decay, multiplicative=self.decay)
        return CellTraining(
            hidden=grid.hidden, epochs=grid.epochs, max_epochs=grid.max_epochs, batch_size=grid.batch_size,
            optimiser=self.optimiser, learning_rate=self.rate,
            sigma=PlaceValues(output=both, hidden=both), decay=PlaceValues(output=slow, hidden=slow),
        )  # fmt: skip

    def training(self, probe: int = 256) -> Training:
        """Return the engine's options."""
        content = {
            "conditions": list(self.conditions),
            "granularity": self.granularity,
            "hidden_injection": self.injection,
            "latent": self.latent,
            "probe": probe,
        }
        return Training.model_validate(content)


@dataclass(frozen=True)
class Entry:
    """A setting, what it is for, and which of its conditions count for that."""

    purpose: str
    setting: Setting
    keep: tuple[str, ...]

    def repetitions(self, study: Study) -> int:
        """Return how many paired repetitions it takes."""
        if self.purpose == "map":
            return study.map_repetitions
        return study.final_repetitions if self.purpose in (*REGIMES, SAME_RATE) else study.check_repetitions


def rates(grid: Grid) -> list[tuple[Optimiser, float]]:
    """Return the map's learning rates."""
    return [*(("sgd", rate) for rate in grid.sgd), *(("adam", rate) for rate in grid.adam)]


def the_map(study: Study) -> list[Entry]:
    """Return the map: every condition over rate × σ × decay, and noiseless nets at more rates, per task and cell."""
    return [entry for task in TASKS for cell in CELLS for entry in _map_of(study, task, cell)]


def _map_of(study: Study, task: Task, cell: Cell) -> list[Entry]:
    grid, split = study.grid(task), SPLITS[task][0]
    cross = itertools.product(rates(grid), grid.sigmas, grid.decays)
    found = [
        Entry("map", Setting(task, cell, split, optimiser, rate, sigma, decay, CONDITIONS), CONDITIONS)
        for (optimiser, rate), sigma, decay in cross
    ]
    further: list[tuple[Optimiser, float]] = [
        *(("sgd", rate) for rate in grid.noiseless_sgd),
        *(("adam", rate) for rate in grid.noiseless_adam),
    ]
    return found + [
        Entry("map", Setting(task, cell, split, optimiser, rate, 0.0, 0.0, ("none",)), ("none",))
        for optimiser, rate in further
    ]


def choose(rows: pd.DataFrame, study: Study, task: Task) -> dict[tuple[str, str], dict[str, Any]]:
    """Return per (regime, condition) the setting of the map with the least mean validation loss.

    Matched blind noise and expected NEM get the setting of the NEM noise that they are compared with.
    A setting in which any repetition failed is not eligible; ties go to the earlier row. Conditions that failed
    everywhere are left out.

    Args:
        rows: the map's rows, one per setting, condition and repetition.
        study: parameters.
        task: the task.
    """
    keys = ["optimiser", "rate", "sigma", "decay"]
    mean = rows.groupby(["condition", *keys], sort=False).validation_loss.agg(lambda x: x.mean(skipna=False))
    table = mean.dropna().reset_index()
    slow = study.grid(task).sgd[0]
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for regime in REGIMES:
        part = table if regime == "tuned" else table[(table.optimiser == "sgd") & (table.rate == slow)]
        for condition in EVERY:
            mine = part[part.condition == BESIDE.get(condition, condition)]
            if len(mine):
                found[regime, condition] = mine.loc[mine.validation_loss.idxmin(), keys].to_dict()
    return found


def finals(study: Study, rows: pd.DataFrame) -> list[Entry]:
    """Return what is trained for the comparisons: chosen settings on every split, variants, and tests of the theory.

    Args:
        study: parameters.
        rows: the map's rows.
    """
    found = []
    for task in TASKS:
        for cell in CELLS:
            for entry in _finals_of(study, task, cell, rows[(rows.task == task) & (rows.cell == cell)]):
                found += _split(entry)
    # What the verdicts need comes first.
    order = {"tuned": 0, SAME_RATE: 0, "slow": 0, "theory": 1, "rescaled": 1}
    return sorted(found, key=lambda entry: order.get(entry.purpose, 2))


def _split(entry: Entry) -> list[Entry]:
    """Train expected NEM noise in gates apart: the compiled kernels have none, and would not serve the others."""
    slow = tuple(name for name in entry.setting.conditions if name.startswith("expected-nem") and "hidden" in name)
    rest = tuple(name for name in entry.setting.conditions if name not in slow)
    if not slow or rest == ("none",):
        return [entry]
    parts = (rest, ("none", *slow))
    keeps = (tuple(name for name in entry.keep if name in part) for part in (rest, slow))
    return [
        Entry(entry.purpose, replace(entry.setting, conditions=part), keep)
        for part, keep in zip(parts, keeps, strict=True)
        if keep
    ]


def _finals_of(study: Study, task: Task, cell: Cell, rows: pd.DataFrame) -> list[Entry]:
    grid, found = study.grid(task), []
    for split in SPLITS[task]:
        for regime in REGIMES:
            groups: dict[tuple[Any, ...], list[str]] = {}
            for (which, condition), picked in choose(rows, study, task).items():
                if which == regime:
                    # The noiseless net has no σ: whichever row was first stands for its rate.
                    sigma, decay = (0.0, 0.0) if condition == "none" else (picked["sigma"], picked["decay"])
                    groups.setdefault((picked["optimiser"], picked["rate"], sigma, decay), []).append(condition)
            alone: set[tuple[str, float]] = set()
            for (optimiser, rate, sigma, decay), names in groups.items():
                trained = tuple(dict.fromkeys(("none", *names)))
                setting = Setting(task, cell, split, optimiser, rate, sigma, decay, trained)
                found.append(Entry(regime, setting, tuple(names)))
                if regime == "tuned" and (optimiser, rate) not in alone:
                    # Trained in that stack anyway: tells what noise did from what the rate did.
                    found.append(Entry(SAME_RATE, setting, ("none",)))
                    alone.add((optimiser, rate))
    split, central = SPLITS[task][0], (grid.central_rate, grid.central_sigma, grid.central_decay)
    tried = ("none", *NEM, "blind-additive-hidden", "blind-multiplicative-hidden")
    for name, options in VARIANTS.items():
        setting = replace(Setting(task, cell, split, "sgd", *central, tried), **options)  # type: ignore[arg-type]
        found.append(Entry(f"variant-{name}", setting, tried))
    pairs = tuple(f"{kind}-{rest}" for kind in ("nem", "expected-nem", "matched") for rest in SINGLE)
    for rate, sigma in itertools.product(dict.fromkeys((grid.sgd[0], grid.central_rate)), grid.sigmas):
        compared = ("none", *pairs)
        found.append(Entry("theory", Setting(task, cell, split, "sgd", rate, sigma, 0.0, compared), compared))
        if task == "clips" and sigma < math.sqrt(2 * math.pi):
            smaller = rate * (1 - sigma / math.sqrt(2 * math.pi))
            # σ names which noise this rate stands for; the noiseless net has none.
            found.append(
                Entry("rescaled", Setting(task, cell, split, "sgd", smaller, sigma, 0.0, ("none",)), ("none",))
            )
    return found
