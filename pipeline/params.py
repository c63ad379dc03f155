"""Every parameter of the project: its name, type, unit, range, default and meaning, in one place.

``params.yaml`` is this schema with a profile's overrides (``profiles/<name>.yaml``) written out, comments and all::

    python -m pipeline.params compose fx      # what `make repro PROFILE=fx` calls
    python -m pipeline.params check           # validate params.yaml

An unknown key is an error that suggests the nearest name; a value out of range names the parameter, what was
expected, and what was found.
"""

from __future__ import annotations

import argparse
import difflib
import io
import re
import reprlib
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from pipeline import paths, records
from pipeline.conditions import CONDITIONS, Condition

Task = Literal["fx", "video", "video_groups"]
Cell = Literal["lstm", "gru"]

MAX_BYTES = 1 << 16
"""A params file larger than this is refused unread (a full one has 10 kB)."""

MAX_FAULTS = 20
"""Faults listed in one message."""

MAX_DEPTH = 16
"""Nesting of a params file; the schema has 6 levels."""


UNION_MEMBERS = ("int", "str", "constrained-int", "constrained-str")
"""What pydantic adds to the place of a fault in ``int | str``: no part of a parameter's name."""

DERIVED = ("sources", "video_sets", "fx_tasks", "video_tasks")
"""Lists that follow from ``tasks``."""


LONGEST = 512
"""Slices of a clip, days of a window, at most."""

MOST = 1_000_000
"""Of anything that is counted in steps, sequences or clips: beyond any use, within what integers and memory hold."""

STEEPEST = 10.0
"""The largest annealing exponent: after one epoch a thousandth is left, and the power stays far from overflow."""


def _outside(place: str) -> str:
    outputs = (paths.RAW, paths.FX_WINDOWS.parent, paths.FRAMES, paths.FEATURES, paths.RUNS, paths.RESULTS)
    own = next((folder for folder in outputs if Path(place).resolve().is_relative_to(folder.resolve())), None)
    if own is not None:
        raise ValueError(f"expected a place outside {own}, an output that DVC removes before its stage runs; move it")
    return place


PathText = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00-\x1f]+$"), AfterValidator(_outside)]
"""A path to the user's own data: one line of text, no output of the pipeline."""

DayIndex = Annotated[int, Field(ge=0, le=10_000_000)]
DayText = Annotated[str, Field(max_length=40)]
GroupNumber = Annotated[int, Field(ge=0, le=MOST)]
GroupName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")]


class ParamsError(ValueError):
    """A parameter file that cannot be used; the message lists every fault with its place and remedy."""


class Section(BaseModel):
    """Base of all sections: unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FxAcquire(Section):
    """Where the exchange-rate series comes from."""

    source: Literal["synthetic", "paper", "csv"] = Field(
        "synthetic", description="synthetic: seeded generator | paper: the paper's USD/INR file | csv: your own file"
    )
    csv_path: PathText | None = Field(
        None, description="file for source csv: Date, Open, High, Low and Price (or Close)"
    )
    synthetic_days: int = Field(2400, ge=32, le=200_000, description="length of the synthetic series [days]")


class FxWindows(Section):
    """How the series becomes training and test windows (Section 6.3 of the paper)."""

    window: int = Field(4, ge=1, le=LONGEST, description="T, how far a prediction looks back [days]")
    train_end: DayIndex | DayText = Field(
        1980, description="last training day: 0-based day index [days], or an ISO date (the last day on or before it)"
    )
    validation_fraction: float = Field(
        0.1, ge=0, lt=0.9, description="tail of the training days that `make tune` holds out [fraction]"
    )
    scaling: Literal["min-max", "z-score"] = Field("z-score", description="scaler, fitted on training days only")

    @field_validator("train_end", mode="before")
    @classmethod
    def _date(cls, value: object) -> object:
        """YAML reads an ISO date without quotes as a date."""
        return value.isoformat() if isinstance(value, date) and not isinstance(value, datetime) else value


class Fx(Section):
    """The exchange-rate task."""

    acquire: FxAcquire = FxAcquire()
    windows: FxWindows = FxWindows()

    @field_validator("windows")
    @classmethod
    def _calendar(cls, windows: FxWindows) -> FxWindows:
        """Ask now whether a date is a day of the calendar; whether the series has it, only the series can say."""
        value = windows.train_end
        if isinstance(value, str):
            try:
                named = date.fromisoformat(value).isoformat()
            except ValueError:
                named = None
            if named != value:
                raise ValueError(
                    f"expected fx.windows.train_end as a day index or as a day of the calendar, YYYY-MM-DD, "
                    f"found {_value(value)}"
                )
        return windows


class VideoAcquire(Section):
    """Where the videos come from."""

    source: Literal["synthetic", "ucf11", "folder", "vectors"] = Field(
        "synthetic",
        description="synthetic: seeded renderer | ucf11: the UCF-11 archive | folder: your own videos | vectors: "
        "feature vectors of still images instead of videos",
    )
    ucf11_from: Literal["auto", "rar", "zip", "folder"] = Field(
        "auto",
        description="rar, zip: that archive, from mirror or network | folder: unpacked in the mirror | auto: what the "
        "mirror holds, else rar",
    )
    folder: PathText | None = Field(None, description="root of class/group/clip or class/clip for source folder")
    group_pattern: str = Field(
        r"_g?(\d+)(?:_c?\d+)?$",
        min_length=1,
        max_length=500,
        description="regular expression on the file stem whose first group is the clip's group (source folder)",
    )
    vectors_path: PathText | None = Field(
        None,
        description="parquet of class, image, feature for source vectors; null: features/bottlenecks_2015.parquet of "
        "the mirror",
    )
    synthetic_groups: int = Field(6, ge=2, le=99, description="size of the synthetic set [groups per class]")
    synthetic_clips: int = Field(2, ge=1, le=99, description="size of the synthetic set [clips per group]")


class VideoFrames(Section):
    """How frames are sampled (Section 6 of the paper: 1.4 frames per second, 7 frames a clip)."""

    rate: float = Field(1.4, ge=0.01, le=120, description="sampled frames per second within a clip [1/s]")
    per_clip: int = Field(7, ge=1, le=LONGEST, description="T, length of a clip [frames]")
    phases: int = Field(
        1, ge=1, le=64, description="samples at phases x rate; a clip takes every phases-th frame [samples per frame]"
    )
    short: Literal["pad", "skip"] = Field(
        "pad", description="videos too short for one clip: repeat the last frame | skip"
    )
    jpeg_quality: int = Field(
        95, ge=1, le=101, description="quality of stored frames [JPEG scale of 1-100]; 101 = lossless PNG"
    )
    max_bad_fraction: float = Field(0.05, ge=0, le=1, description="stop when more videos than this are bad [fraction]")


class VideoFeatures(Section):
    """How Inception-v3 turns a frame into 2048 numbers."""

    weights: Literal["random", "imagenet", "file"] = Field(
        "random", description="random: seeded | imagenet: torchvision's IMAGENET1K_V1 | file: weights_path"
    )
    weights_path: PathText | None = Field(None, description="state_dict for weights file (.safetensors or .pth)")
    preprocessing: Literal["torchvision", "inception-2015"] = Field(
        "torchvision", description="torchvision: ImageNet mean and deviation | inception-2015: (x - 128) / 128"
    )
    batch_size: int = Field(16, ge=1, le=4096, description="size of a forward pass [frames]")
    precision: Literal["float32", "autocast"] = Field("float32", description="autocast: 16-bit on CUDA")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")


class VideoClips(Section):
    """How frames become labelled clips, and clips become splits."""

    stride: int = Field(1, ge=1, le=LONGEST, description="from one clip's start to the next [sampled frames]")
    per_class: int = Field(48, ge=2, le=MOST, description="size of the set for source vectors [pseudo-clips per class]")
    test_fraction: float = Field(1 / 6, gt=0, lt=1, description="test share: the paper's 5:1 split [fraction]")
    leave_group_out: GroupNumber | GroupName | None = Field(
        None,
        description="split by groups: hold out the group of this name [number or text] in each class, instead of "
        "test_fraction",
    )


class Video(Section):
    """The video task."""

    acquire: VideoAcquire = VideoAcquire()
    frames: VideoFrames = VideoFrames()
    features: VideoFeatures = VideoFeatures()
    clips: VideoClips = VideoClips()

    @field_validator("acquire")
    @classmethod
    def _compiles(cls, acquire: VideoAcquire) -> VideoAcquire:
        """Compile the pattern now: the stage that uses it may have hours of unpacking before it."""
        pattern = acquire.group_pattern
        try:
            groups, fault = re.compile(pattern).groups, "no group"
        except (re.error, RecursionError, OverflowError) as error:
            groups, fault = 0, str(error)
        if not groups:
            raise ValueError(
                "expected video.acquire.group_pattern as a regular expression with a group (…) that catches the "
                f"clip's group, found {_value(pattern)} ({fault})"
            )
        return acquire


class ModeValues(Section):
    """One number per noise mode."""

    additive: float = Field(
        ge=0, le=1e6, description="of added noise [sigma: scaled target units | gate units; decay: 1]"
    )
    multiplicative: float = Field(ge=0, le=1e6, description="of the factor, whose mean is 1 [1]")


class PlaceValues(Section):
    """One number per place and mode."""

    output: ModeValues
    hidden: ModeValues

    def of(self, place: Literal["output", "hidden"], mode: Literal["additive", "multiplicative"]) -> float:
        """Return the value for ``place`` and ``mode``."""
        values = self.output if place == "output" else self.hidden
        return values.additive if mode == "additive" else values.multiplicative


def _everywhere(value: float) -> PlaceValues:
    return PlaceValues(
        output=ModeValues(additive=value, multiplicative=value), hidden=ModeValues(additive=value, multiplicative=value)
    )


class CellTraining(Section):
    """Network size and optimiser of one cell on one task."""

    hidden: int = Field(50, ge=1, le=65_536, description="J, size of the hidden layer [units]")
    epochs: int = Field(100, ge=1, le=MOST, description="R, after which results are read [epochs]")
    max_epochs: int = Field(150, ge=1, le=MOST, description="train on to here, to place negative speed-ups [epochs]")
    batch_size: int = Field(64, ge=1, le=MOST, description="B, size of a gradient step [sequences]")
    optimiser: Literal["sgd", "adam", "rmsprop"] = Field("sgd", description="update rule")
    learning_rate: float = Field(0.1, ge=1e-12, le=1e3, description="step size [1]")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd and rmsprop; must be 0 for adam [1]")
    sigma: PlaceValues = Field(_everywhere(0.1), description="noise standard deviation [scaled target | gate units]")
    decay: PlaceValues = Field(_everywhere(0.5), description="annealing: sigma / (1 + epoch)^decay, epoch from 0 [1]")

    @field_validator("decay")
    @classmethod
    def _finite_power(cls, decay: PlaceValues) -> PlaceValues:
        """(1 + epoch)^decay must be a number for every epoch."""
        largest = max(
            decay.of(place, mode) for place in ("output", "hidden") for mode in ("additive", "multiplicative")
        )
        if largest > STEEPEST:
            raise ValueError(f"expected exponents of at most {STEEPEST:g}, found {largest:g}")
        return decay

    @model_validator(mode="after")
    def _consistent(self) -> CellTraining:
        if self.max_epochs < self.epochs:
            raise ValueError(f"expected max_epochs >= epochs = {self.epochs}, found {self.max_epochs}")
        if self.optimiser == "adam" and self.momentum:
            raise ValueError(f"expected momentum 0 with optimiser adam (its beta1 is 0.9), found {self.momentum}")
        return self


class TaskTraining(Section):
    """The two cells of one task."""

    lstm: CellTraining = CellTraining()
    gru: CellTraining = CellTraining()


def _noise(output: tuple[float, float], hidden: tuple[float, float]) -> PlaceValues:
    """Return values for (additive, multiplicative) noise in the output and hidden layers."""
    return PlaceValues(
        output=ModeValues(additive=output[0], multiplicative=output[1]),
        hidden=ModeValues(additive=hidden[0], multiplicative=hidden[1]),
    )


# Chosen by `make tune` on validation days of the paper's series; the whole search: docs/tuning.md.
FX_TUNED = TaskTraining(
    lstm=CellTraining(
        optimiser="adam",
        learning_rate=0.003,
        sigma=_noise((0.5, 0.1), (0.5, 0.5)),
        decay=_noise((0.0, 1.0), (1.0, 1.0)),
    ),
    gru=CellTraining(
        optimiser="adam",
        learning_rate=0.003,
        sigma=_noise((0.2, 0.5), (0.1, 0.1)),
        decay=_noise((0.0, 0.0), (0.5, 0.5)),
    ),
)


# The paper's network (256 hidden units, 100 epochs); the rest is ours and not tuned.
_VIDEO_CELL = CellTraining(
    hidden=256,
    optimiser="adam",
    learning_rate=0.001,
    sigma=_noise((0.3, 0.3), (0.1, 0.1)),
    decay=_noise((0.5, 0.5), (0.5, 0.5)),
)
VIDEO = TaskTraining(lstm=_VIDEO_CELL, gru=_VIDEO_CELL)


class Train(Section):
    """Settings per task and cell."""

    fx: TaskTraining = FX_TUNED
    video: TaskTraining = VIDEO
    video_groups: TaskTraining = VIDEO

    def of(self, task: Task, cell: Cell) -> CellTraining:
        """Return the settings of ``cell`` on ``task``."""
        settings: CellTraining = getattr(getattr(self, task), cell)
        return settings


class Training(Section):
    """Settings that all tasks and cells share."""

    repetitions: int = Field(2, ge=1, le=10_000, description="paired runs (seeds) of every condition [repetitions]")
    conditions: list[str] = Field(list(CONDITIONS), min_length=1, description="noise conditions to train")
    hidden_injection: Literal["forward", "backward"] = Field(
        "forward", description="forward: all downstream sees the noisy gate | backward: only the backward pass does"
    )
    latent: Literal["mean-field", "sampled"] = Field(
        "mean-field", description="z of (81), (89): z := g | z ~ Bernoulli(g)"
    )
    granularity: Literal["slice", "neuron", "time"] = Field(
        "slice", description="what one NEM test decides on: a time slice's layer | one neuron | all slices together"
    )
    gate_clamp: bool = Field(False, description="clip noisy gates to [0, 1]")
    first_target: int | None = Field(
        None, ge=1, le=LONGEST, description="t0, first slice with a target [slices, from 1]; null = T, the last"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    probe: int = Field(
        1024, ge=1, le=MOST, description="training data that the clean training loss is measured on [sequences]"
    )
    checkpoint_every: int = Field(25, ge=1, le=MOST, description="from one checkpoint to the next [epochs]")
    noise_benefit: bool = Field(False, description="log Q_N - Q (70) per epoch, by importance sampling")

    @field_validator("conditions")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            Condition.parse(name)
        if len(set(names)) != len(names):
            raise ValueError("expected each noise condition once, found repeats")
        if "none" not in names:
            raise ValueError("expected the condition 'none', to which all others are compared")
        return names


class Evaluate(Section):
    """How results are summarised."""

    confidence: float = Field(0.95, gt=0, lt=1, description="level of bootstrap intervals [fraction]")
    bootstrap: int = Field(10_000, ge=100, le=10_000_000, description="size of the bootstrap [resamples]")


class Params(Section):
    """The whole of ``params.yaml``."""

    profile: str = Field(
        "demo",
        max_length=80,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="the profile that this file was composed from",
    )
    seed: int = Field(1, ge=0, lt=2**63, description="root of the seed tree [integer]")
    sources: list[Literal["fx", "video"]] = Field(["fx", "video"], min_length=1, description="data sets to acquire")
    tasks: list[Task] = Field(["fx", "video", "video_groups"], min_length=1, description="tasks to train")
    video_sets: list[Literal["video"]] = Field(
        ["video"], description="[video] with a video task, else []; for dvc.yaml"
    )
    fx_tasks: list[Literal["fx"]] = Field(["fx"], description="those of tasks on exchange rates; for dvc.yaml")
    video_tasks: list[Literal["video", "video_groups"]] = Field(
        ["video", "video_groups"], description="those of tasks on videos; for dvc.yaml"
    )
    cells: list[Cell] = Field(["lstm", "gru"], min_length=1, description="recurrent cells to train")
    fx: Fx = Fx()
    video: Video = Video()
    training: Training = Training()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="before")
    @classmethod
    def _derive(cls, content: Any) -> Any:  # noqa: ANN401 - whatever was given
        """Fill in the lists that follow from ``tasks``: DVC's matrices need them spelled out."""
        if isinstance(content, dict) and isinstance(content.get("tasks"), list):
            tasks = content["tasks"]
            video = [task for task in tasks if task in ("video", "video_groups")]
            fx = [task for task in tasks if task == "fx"]
            derived = {
                "sources": [*fx, *(["video"] if video else [])],
                "video_sets": ["video"] if video else [],
                "fx_tasks": fx,
                "video_tasks": video,
            }
            return {**derived, **content}
        return content

    @field_validator("sources", "tasks", "cells")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("expected each name once, found repeats")
        return names

    @model_validator(mode="after")
    def _tasks_have_sources(self) -> Params:
        for task in self.tasks:
            source = "fx" if task == "fx" else "video"
            if source not in self.sources:
                raise ValueError(f"expected {source!r} among sources, since tasks has {task!r}; found {self.sources}")
        video = [task for task in self.tasks if task != "fx"]
        if bool(video) != bool(self.video_sets):
            raise ValueError("expected video_sets [video] exactly when tasks has a video task")
        if self.video_tasks != video or self.fx_tasks != [task for task in self.tasks if task == "fx"]:
            raise ValueError(
                f"expected fx_tasks and video_tasks to be those of tasks = {self.tasks}; remove both lines"
            )
        return self


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.allow_duplicate_keys = False
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _refused(text: str) -> str | None:
    """Return what makes YAML too costly to load, if anything does: parameters need neither aliases nor depth."""
    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        # Aliases of aliases (or merge keys) make a small file exponentially large.
        if isinstance(event, AliasEvent):
            return f"the alias *{_shown(event.anchor)} in line {event.start_mark.line + 1}; write the value out"
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            return f"more than {MAX_DEPTH} nested values in line {event.start_mark.line + 1}"
    return None


def _read_yaml(source: Path) -> dict[str, Any]:
    if not source.is_file():
        raise ParamsError(f"expected a parameter file at {source}, found none; run from the project's root")
    if source.stat().st_size > MAX_BYTES:
        raise ParamsError(
            f"expected a parameter file under {MAX_BYTES} bytes, found {source.stat().st_size} in {source}"
        )
    try:
        text = source.read_text(encoding="utf-8")
        refused = _refused(text)
        safe = YAML(typ="safe", pure=True)
        safe.allow_duplicate_keys = False
        content = None if refused else safe.load(text)
    except Exception as error:  # on hostile text the parser also raises KeyError, IndexError, RecursionError, …
        raise ParamsError(f"expected valid YAML in {source}, found {type(error).__name__}: {error}") from error
    if refused:
        raise ParamsError(f"expected plain YAML in {source}, found {refused}")
    if content is None:
        content = {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ParamsError(f"expected a mapping with string keys in {source}, found {type(content).__name__}")
    return content


def _section_at(place: tuple[int | str, ...]) -> type[BaseModel] | None:
    section: Any = Params
    for key in place:
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            return None
        field = section.model_fields.get(str(key))
        if field is None:
            return None
        section = field.annotation
    return section if isinstance(section, type) and issubclass(section, BaseModel) else None


def _shown(text: str, most: int = 80) -> str:
    """Return text for a message: short, and with escapes for what a terminal would obey or turn round."""
    short = text if len(text) <= most else text[:most] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in short)


def _value(value: object) -> str:
    try:
        return _shown(reprlib.repr(value))
    except ValueError:  # an integer of more digits than Python writes
        return f"{type(value).__name__} of thousands of digits"


def _explain(error: ValidationError, source: str) -> str:
    lines = []
    faults = error.errors()
    for fault in faults[:MAX_FAULTS]:
        place = tuple(part for part in fault["loc"] if part not in UNION_MEMBERS)
        name = _shown(".".join(str(part) for part in place)) or "(whole file)"
        if fault["type"] == "extra_forbidden":
            section = _section_at(place[:-1])
            near = difflib.get_close_matches(str(place[-1])[:80], section.model_fields if section else [], n=1)
            lines.append(f"  {name}: unknown parameter" + (f"; did you mean {near[0]!r}?" if near else "; remove it"))
        else:
            told = fault["type"] == "value_error" and "found" in fault["msg"]
            lines.append(f"  {name}: {fault['msg']}" + ("" if told else f"; found {_value(fault['input'])}"))
    if len(faults) > MAX_FAULTS:
        lines.append(f"  and {len(faults) - MAX_FAULTS} more")
    return f"{source} has {len(faults)} fault(s):\n" + "\n".join(lines)


def validate(content: dict[str, Any], source: str = "params") -> Params:
    """Return validated parameters from a plain mapping.

    Args:
        content: the mapping, as read from YAML.
        source: its name in error messages.

    Raises:
        ParamsError: unknown keys, wrong types or values out of range, all of them listed.
    """
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise ParamsError(_explain(error, source)) from error


def load(source: Path = paths.PARAMS) -> Params:
    """Read and validate a parameter file.

    Raises:
        ParamsError: the file is missing, too large, not YAML, or has faults, all of them listed.
    """
    return validate(_read_yaml(source), str(source))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def profile(name: str) -> Params:
    """Return the parameters of a profile: the schema's defaults with ``profiles/<name>.yaml`` laid over them.

    Raises:
        ParamsError: no such profile, or its file has faults.
    """
    source = paths.PROFILES / f"{name}.yaml"
    if not source.is_file():
        known = sorted(file.stem for file in paths.PROFILES.glob("*.yaml"))
        raise ParamsError(f"expected one of the profiles {known}, found {name!r}")
    base = {key: value for key, value in Params().model_dump().items() if key not in DERIVED}
    return validate(_merge(base, {**_read_yaml(source), "profile": name}), str(source))


def _commented(section: BaseModel, depth: int = 0, *, told: bool = False) -> CommentedMap:
    """Return a section as YAML; where its own comment has ``told`` what its leaves are, they have none."""
    out = CommentedMap()
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, BaseModel):
            out[key] = _commented(value, depth + 1, told=told or bool(field.description))
            note = field.description or (type(value).__doc__ or "").split("\n")[0]
            if depth == 0 or field.description:
                out.yaml_set_comment_before_after_key(key, before=note, indent=2 * depth)
            continue
        if isinstance(value, list):
            items = CommentedSeq(value)
            if len(items) < 5:
                items.fa.set_flow_style()
            out[key] = items
        else:
            out[key] = value
        if field.description and not told:
            out.yaml_set_comment_before_after_key(key, before=field.description, indent=2 * depth)
    return out


def render(params: Params) -> str:
    """Return ``params`` as YAML with every parameter's meaning as a comment above it."""
    stream = io.StringIO()
    stream.write(
        "# Composed by `python -m pipeline.params compose PROFILE`; free to edit. Meaning, units and ranges:\n"
    )
    stream.write("# pipeline/params.py.\n")
    _yaml().dump(_commented(params), stream)
    return stream.getvalue()


def compose(name: str, destination: Path = paths.PARAMS, *, force: bool = False) -> bool:
    """Write the profile ``name`` to ``destination`` unless it is there already; return whether it was written.

    Args:
        name: the profile.
        destination: the file to write.
        force: overwrite a file that equals no profile, and so holds somebody's edits.

    Raises:
        ParamsError: the profile has faults, or ``destination`` holds edits and ``force`` is not set.
    """
    wanted = render(profile(name))
    if destination.is_file():
        found = destination.read_text(encoding="utf-8")
        if found == wanted:
            return False
        known = [render(profile(file.stem)) for file in sorted(paths.PROFILES.glob("*.yaml"))]
        if not force and found not in known:
            raise ParamsError(
                f"expected {destination} to be one of the profiles, found edits that would be lost; keep them with "
                f"`make repro` (no PROFILE), or save them as profiles/<name>.yaml, or overwrite them with FORCE=1"
            )
    records.write_text(destination, wanted)
    return True


def main(arguments: Annotated[list[str] | None, "command line"] = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description="Compose or check params.yaml.")
    commands = parser.add_subparsers(dest="command", required=True)
    composing = commands.add_parser("compose", help="write params.yaml from a profile")
    composing.add_argument("profile")
    composing.add_argument("--force", action="store_true", help="overwrite hand edits")
    commands.add_parser("check", help="validate params.yaml")
    options = parser.parse_args(arguments)
    try:
        if options.command == "compose":
            written = compose(options.profile, force=options.force)
            print(f"params.yaml: profile {options.profile}" + ("" if written else " (already)"))
        else:
            load()
            print("params.yaml: valid")
    except ParamsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
