"""What the study trains: a grid of settings, what is chosen from it, and checks of the theory at fixed settings.

The *map* trains every condition over learning rate × σ × annealing, with few repetitions and seeds of their own; what
it measures on validation sequences chooses settings. The *finals*, which alone are compared, train those with more
repetitions and other seeds.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from nem.conditions import CONDITIONS, MODES
from pipeline.common import jobs, paths, seeds, sequences
from pipeline.params import Optimiser, Params, StudyTask
from pipeline.training import settings
from pipeline.training.train import Order, Work

SINGLE = tuple(f"{mode}-{place}" for mode in MODES for place in settings.PLACES)
# Matched blind noise and expected NEM stand beside NEM noise at its setting, by mode and layer.
BESIDE = {f"{kind}-{rest}": f"nem-{rest}" for kind in ("matched", "expected-nem") for rest in SINGLE}
# Only the general form of the networks has these; they would slow the others of a stack down.
GENERAL = tuple(name for name in BESIDE if name.startswith("expected") and name.endswith("hidden"))
EVERY = (*CONDITIONS, *BESIDE)  # of the comparisons; the map has the paper's 13
NEM = tuple(name for name in CONDITIONS if name.startswith("nem"))
REGIMES = ("tuned", "slow")  # σ and annealing are chosen for both, in "slow" at the smallest SGD rate
SAME_RATE = "same rate"  # noiseless nets at the rates that were chosen for others in the regime "tuned"
BY_GROUPS, BY_ORDER = "groups ", "order "  # training on few groups, and slices shuffled in time; what follows says how
ORDERS: tuple[Order, ...] = ("shuffled for testing", "shuffled")
SHOWN = ("none", "blind-additive-both", "nem-additive-both")
VARIANTS = {"base": {}, "backward": {"hidden_injection": "backward"}, "sampled": {"latent": "sampled"}}
VARIANTS |= {name: {"granularity": name} for name in ("time", "neuron")}
CHOSEN = ["optimiser", "learning_rate", "sigma_output", "decay_output"]  # columns that a Choice fixes
# What the grid does not vary unless a variant says so, whatever ``params.training`` has.
PLAIN: dict[str, Any] = {"momentum": 0.0, "probe": 256, "noise_benefit": False}
PLAIN |= {"granularity": "slice", "hidden_injection": "forward", "latent": "mean-field"}

Rate = tuple[str, float]  # optimiser and learning rate
Choice = tuple[str, float, float, float]  # and σ and annealing, the same in outputs and gates


@dataclass(frozen=True)
class Entry:
    """One stack of networks, what it is for, and which of its conditions count for that."""

    purpose: str
    task: str
    work: Work
    keep: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """Where networks train: one task, split and cell, with all parameters that the grid does not vary."""

    params: Params
    study: StudyTask
    task: str
    split: str
    cell: str

    def work(self, choice: Choice, conditions: Iterable[str], repetitions: int, **options: object) -> Work:
        """Return a stack of ``none`` and the conditions; ``options`` are further fields of the settings."""
        optimiser, rate, sigma, decay = choice
        noise = {at: {mode: {"sigma": sigma, "decay": decay} for mode in MODES} for at in settings.PLACES}
        shared = {**self.params.training.model_dump(), **self.study.network.model_dump(), **PLAIN}
        varied = {"optimiser": optimiser, "learning_rate": rate, "noise": noise, **options}
        varied["conditions"] = tuple(dict.fromkeys(("none", *conditions)))
        return Work(
            paths.sequences(self.task), self.split, "apart", settings.of(shared, varied, self.cell),
            self.params.seed, f"study-{self.task}", tuple(range(repetitions)),
            device=jobs.device(self.params.training.device), stride=self.study.stride,
        )  # fmt: skip


def places(params: Params, *, every_split: bool) -> Iterator[Place]:
    """Yield where the study trains: its tasks among ``params.tasks``, on the first of their splits or on every one.

    A FileNotFoundError says that a task's sequences are missing, a ValueError that the study has none of the tasks.
    """
    tasks = [task for task in params.tasks if task in params.study.tasks]
    if not tasks:
        raise ValueError(f"expected one of {list(params.study.tasks)} among tasks, found {params.tasks}; set tasks")
    for task in tasks:
        own = params.study.tasks[task]
        splits = own.splits or sequences.splits(paths.sequences(task))
        for split, cell in itertools.product(splits if every_split else splits[:1], params.cells):
            yield Place(params, own, task, split, cell)


def quick(params: Params) -> Params:
    """Return parameters of a study of a minute, which shows that the path is whole and nothing else."""
    study = params.study.model_dump()
    study["repetitions"] = {"map": 2, "final": 2, "check": 2}
    study |= {name: study[name][:1] for name in ("sigmas", "decays")}
    for task in study["tasks"].values():
        ends = {"sgd": [task["rates"]["sgd"][0], task["rates"]["sgd"][-1]]}
        fewer = {"groups": task["groups"][:1], "rates": ends, "noiseless": {"adam": [0.01]}}
        task |= {"stride": 4 * task["stride"], **fewer}
        task["network"] |= {"hidden": 4, "epochs": 4, "max_epochs": 6}
    return Params.model_validate({**params.model_dump(), "study": study})


def rates(table: Mapping[Optimiser, list[float]]) -> list[Rate]:
    """Return the learning rates of a table by optimiser."""
    return [(optimiser, rate) for optimiser, several in table.items() for rate in several]


def the_map(params: Params) -> list[Entry]:
    """Return the map: every condition over rate × σ × annealing, and noiseless nets at more rates."""
    study = params.study
    # What chooses settings must not know the repetitions that are compared.
    apart = params.model_copy(update={"seed": seeds.seed_of(params.seed, "study", "map")})
    entries = []
    for place in places(apart, every_split=False):
        grid = itertools.product(rates(place.study.rates), study.sigmas, study.decays)
        stacks = [((*rate, sigma, decay), CONDITIONS) for rate, sigma, decay in grid]
        stacks += [((*rate, 0.0, 0.0), ("none",)) for rate in rates(place.study.noiseless)]
        works = ((place.work(choice, names, study.repetitions.map), names) for choice, names in stacks)
        entries += [Entry("map", place.task, work, names) for work, names in works]
    return entries


def choose(rows: pd.DataFrame, slow: float) -> dict[tuple[str, str], Choice]:
    """Return per (regime, condition) the setting with the least mean validation loss in the map of a task and cell.

    A setting in which any repetition failed is not eligible; ties go to the earlier row. Conditions that failed
    everywhere are left out. ``slow`` is the learning rate of that regime.
    """
    mean = rows.groupby(["condition", *CHOSEN], sort=False).validation_loss.agg(lambda x: x.mean(skipna=False))
    table = mean.dropna().reset_index()
    chosen: dict[tuple[str, str], Choice] = {}
    for regime in REGIMES:
        part = table if regime == "tuned" else table[(table.optimiser == "sgd") & (table.learning_rate == slow)]
        for condition in EVERY:
            own = part[part.condition == BESIDE.get(condition, condition)]
            if len(own):
                optimiser, rate, sigma, decay = own.loc[own.validation_loss.idxmin(), CHOSEN]
                # The noiseless net has no σ: whichever row was first stands for its rate.
                strengths = (0.0, 0.0) if condition == "none" else (float(sigma), float(decay))
                chosen[regime, condition] = (str(optimiser), float(rate), *strengths)
    return chosen


def finals(params: Params, rows: pd.DataFrame) -> list[Entry]:
    """Return what follows from the map's rows: chosen settings on every split, variants, and checks of the theory."""
    entries: list[Entry] = []
    for place in places(params, every_split=True):
        own = rows[(rows.task == place.task) & (rows.cell == place.cell)]
        chosen = choose(own, place.study.rates["sgd"][0])
        tuned, slow = ({name: s for (which, name), s in chosen.items() if which == regime} for regime in REGIMES)
        final = params.study.repetitions.final
        first = [*_at("tuned", place, tuned, final)]
        entries += [*first, *_at("slow", place, slow, final)]
        # Trained in those stacks anyway: tells what noise did from what the rate did.
        same = {(e.work.settings.optimiser, e.work.settings.learning_rate): e for e in reversed(first)}
        entries += [Entry(SAME_RATE, place.task, entry.work, ("none",)) for entry in same.values()]
        if place.split == own.split.iloc[0]:
            softmax = own["head"].iloc[0] == "softmax"
            entries += _checks(place, softmax=softmax)
            entries += _saturation(place, tuned) if softmax else ()
    return entries


def _at(purpose: str, place: Place, chosen: Mapping[str, Choice], repetitions: int, **part: int | Order
        ) -> Iterator[Entry]:  # fmt: skip
    """Yield conditions at the settings that were chosen for them; ``part`` are further fields of the work."""
    stacks: dict[tuple[Choice, bool], list[str]] = {}
    for condition, setting in chosen.items():
        stacks.setdefault((setting, condition in GENERAL), []).append(condition)
    for (setting, _), names in stacks.items():
        work = replace(place.work(setting, names, repetitions), **part)  # type: ignore[arg-type]
        yield Entry(purpose, place.task, work, tuple(names))


def _saturation(place: Place, tuned: Mapping[str, Choice]) -> Iterator[Entry]:
    """Yield the paper's conditions trained on few groups, and three of them with slices shuffled in time."""
    several = place.params.study.repetitions.check
    for count in place.study.groups:
        own = {name: setting for name, setting in tuned.items() if name in CONDITIONS}
        yield from _at(f"{BY_GROUPS}{count}", place, own, several, groups=count)
    for order in ORDERS:
        own = {name: setting for name, setting in tuned.items() if name in SHOWN}
        yield from _at(f"{BY_ORDER}{order}", place, own, several, order=order)


def _checks(place: Place, *, softmax: bool) -> Iterator[Entry]:
    """Yield variants at the central setting, and checks of the theory at fixed rates and σ."""
    centre, several = place.study.central, place.params.study.repetitions.check
    tried = ("none", *NEM, "blind-additive-hidden", "blind-multiplicative-hidden")
    for name, options in VARIANTS.items():
        work = place.work(("sgd", centre.rate, centre.sigma, centre.decay), tried, several, **options)
        yield Entry(f"variant-{name}", place.task, work, tried)
    fast = ("none", *(f"nem-{rest}" for rest in SINGLE), *(name for name in BESIDE if name not in GENERAL))
    fixed = dict.fromkeys((place.study.rates["sgd"][0], centre.rate))
    for rate, sigma in itertools.product(fixed, place.params.study.sigmas):
        for keep in (fast, GENERAL):
            yield Entry("theory", place.task, place.work(("sgd", rate, sigma, 0.0), keep, several), keep)
        share = 1 - sigma / math.sqrt(2 * math.pi)
        if softmax and share > 0:
            # What multiplicative NEM noise in outputs is on average. σ names which noise this rate stands for.
            work = place.work(("sgd", rate * share, sigma, 0.0), ("none",), several)
            yield Entry("rescaled", place.task, work, ("none",))
