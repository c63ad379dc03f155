"""The schema of ``params.yaml``: every parameter's name, type, unit, range, default and meaning, in one place.

``params.yaml`` is this schema with a profile's changes (``profiles/<name>.yaml``) written out by
``python -m pipeline.params compose NAME``. It is complete, so stages depend on its values and not on this module;
``… check`` lists all its faults, as does the :class:`ParamsError` of every function here.
"""

import itertools
import os
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from nem.conditions import CONDITIONS, Condition
from nem.names import CellName as Cell
from nem.names import DensityName, Granularity, Injection, Latent, OutputDelta
from pipeline import sections
from pipeline.common import command, paths, records
from pipeline.sections import Line, Once, ParamsError, PathText, Pattern, Section, value_of

Task = Literal["fx", "video", "own"]
Optimiser = Literal["sgd", "adam", "rmsprop"]
Split = Literal["random", "groups"]

MOST = 1_000_000  # steps, sequences, clips: beyond any use, within what integers and memory hold


def _conditions(names: list[str]) -> list[str]:
    for name in names:
        Condition.parse(name)
    if "none" not in names:
        raise ValueError("expected the condition 'none', to which all others are compared; found none; add it")
    return names


def _calendar(value: object) -> object:
    """Ask now whether a date is a day of the calendar (whether the series has it, only the series can say)."""
    if isinstance(value, date) and not isinstance(value, datetime):  # YAML's reading of a date without quotes
        return value.isoformat()
    try:
        if isinstance(value, str) and date.fromisoformat(value).isoformat() != value:
            raise ValueError
    except ValueError:
        raise ValueError(f"expected a day index or date YYYY-MM-DD, found {value_of(value)}; correct it") from None
    return value


def _with_sgd(rates: dict[str, list[float]]) -> dict[str, list[float]]:
    if not rates.get("sgd"):
        raise ValueError(f"expected at least one rate of sgd, found {value_of(rates)}; add one")
    return rates


Word = Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Index = Annotated[int, Field(ge=0, le=10_000_000)]
Day = Annotated[Index | Annotated[str, Field(max_length=40)], BeforeValidator(_calendar)]
Group = Annotated[int, Field(ge=0, le=MOST)] | Line
Count = Annotated[int, Field(ge=1, le=MOST)]
Slices = Annotated[int, Field(ge=1, le=512)]
Fraction = Annotated[float, Field(ge=0, lt=0.9)]
Rate = Annotated[float, Field(ge=1e-12, le=1e3)]
Sigma = Annotated[float, Field(ge=0, le=1e6)]
Decay = Annotated[float, Field(ge=0, le=10)]  # one epoch then leaves a thousandth; the power stays far from overflow
Rates = dict[Optimiser, list[Rate]]
Preprocessing = Literal["torchvision", "inception-2015"]
Weights = Literal["random", "imagenet", "file"]
FxSource = Literal["synthetic", "paper", "csv"]
Device = Literal["auto", "cpu", "cuda"]
Conditions = Annotated[Once[str], AfterValidator(_conditions)]


class FxCsv(Section):
    """How yours is written."""

    inline: ClassVar[bool] = True
    date_order: Literal["auto", "ymd", "dmy", "mdy"] = Field("auto", description="auto, or ymd, dmy, mdy: year first …")
    decimal: Literal["auto", "point", "comma"] = Field("auto", description="auto, or point, comma: the decimal mark")
    separator: Literal["auto", "comma", "semicolon", "tab", "bar"] = Field(
        "auto", description="auto, or comma, semicolon, tab, bar: the character between cells"
    )
    encoding: Word = Field("auto", description="auto, or the encoding's name, such as utf-8 or cp1251")
    price: Line = Field("auto", description="auto, or the name of the column of prices")


class FxAcquire(Section):
    """Where the series comes from."""

    source: FxSource = Field("synthetic", description="synthetic | paper: its USD/INR | csv: your file")
    csv_path: PathText = Field(None, description="your file of daily rates, with a header, for source csv")
    csv: FxCsv = FxCsv()
    unit: Line = Field("price units", description="what the prices of your file are in")
    synthetic_days: int = Field(2400, ge=32, le=200_000, description="length of the synthetic series [days]")


class FxWindows(Section):
    """How it becomes windows (Section 6.3 of the paper)."""

    window: Slices = Field(4, description="T, how far a prediction looks back [days]")
    train_end: Day = Field(1980, description="last training day: 0-based index [days], or an ISO date (it or before)")
    validation_fraction: Fraction = Field(0.1, description="tail of the training days to choose on [fraction]")
    scaling: Literal["min-max", "z-score"] = Field("z-score", description="min-max | z-score, of training days")
    target: Literal["price", "change"] = Field(
        "price", description="price | change: from the day before, no level shift"
    )
    inputs: Once[Literal["open", "high", "low", "price"]] = Field(
        ["open", "high", "low", "price"], description="what a network sees of a day: open, high, low, price"
    )


class Fx(Section):
    """The exchange-rate task."""

    acquire: FxAcquire = FxAcquire()
    windows: FxWindows = FxWindows()


class VideoAcquire(Section):
    """Where the videos come from."""

    source: Literal["synthetic", "ucf11", "ucf101", "folder", "features"] = Field(
        "synthetic", description="synthetic: drawn | ucf11, ucf101 | folder: your videos | features: your vectors"
    )
    ucf11_from: Literal["auto", "rar", "zip", "folder"] = Field(
        "auto", description="rar, zip: archive | folder: unpacked, in the mirror | auto: the mirror's, else rar"
    )
    folder: PathText = Field(None, description="root of class/group/clip or class/clip for source folder")
    group_pattern: Pattern = Field(r"_g?(\d+)(?:_c?\d+)?$", description="finds the group in a file's stem (folder)")
    features_path: PathText = Field(None, description="file or folder of feature sequences (features)")
    synthetic_groups: int = Field(6, ge=2, le=99, description="size of the synthetic set [groups per class]")
    synthetic_clips: int = Field(2, ge=1, le=99, description="size of the synthetic set [videos per group]")


class VideoFrames(Section):
    """How frames are sampled (Section 6 of the paper)."""

    rate: float = Field(1.4, ge=0.01, le=120, description="sampled frames per second within a clip [1/s]")
    per_clip: Slices = Field(7, description="T, length of a clip [frames]")
    phases: int = Field(1, ge=1, le=64, description="samples at phases x rate, a clip takes every phases-th [samples]")
    short: Literal["pad", "skip"] = Field("pad", description="videos under one clip: pad with the last frame | skip")
    jpeg_quality: int = Field(95, ge=1, le=101, description="of stored frames [JPEG scale of 1-100]; 101 = PNG")
    max_bad_fraction: float = Field(0.05, ge=0, le=1, description="stop when more videos than this are bad [fraction]")


class VideoFeatures(Section):
    """How Inception-v3 turns a frame into 2048 numbers."""

    weights: Weights = Field("random", description="random: seeded | imagenet: torchvision's | file: weights_path")
    weights_path: PathText = Field(None, description="state_dict for weights file (.safetensors or .pth)")
    preprocessing: Preprocessing = Field("torchvision", description="torchvision | inception-2015: (x - 128) / 128")
    batch_size: int = Field(16, ge=1, le=4096, description="size of a forward pass [frames]")
    precision: Literal["float32", "autocast"] = Field("float32", description="float32 | autocast: 16-bit on CUDA")
    device: Device = Field("auto", description="auto: CUDA where there is one | cpu | cuda")


class VideoClips(Section):
    """How frames become clips, and clips become splits."""

    splits: Once[Split] = Field(["random", "groups"], description="random: of clips (the paper's) | groups: whole ones")
    stride: Slices = Field(1, description="from one clip's start to the next [sampled frames]")
    test_fraction: float = Field(1 / 6, gt=0, lt=1, description="test share, 5:1 in the paper [fraction]")
    validation_fraction: Fraction = Field(0.1, description="share of the training clips to choose on [fraction]")
    leave_group_out: Group | None = Field(None, description="groups: test on this group [number or text] of each class")
    test_groups: list[Group] | None = Field(None, min_length=1, description="groups: the same for several [names]")
    components: Count | None = Field(None, description="principal components of training videos [number]; null: none")

    @model_validator(mode="after")
    def _one_way(self) -> "VideoClips":
        if self.leave_group_out is not None and self.test_groups is not None:
            raise ValueError("expected leave_group_out or test_groups, found both; set one of them to null")
        return self


class Video(Section):
    """The video task."""

    acquire: VideoAcquire = VideoAcquire()
    frames: VideoFrames = VideoFrames()
    features: VideoFeatures = VideoFeatures()
    clips: VideoClips = VideoClips()


class OwnAcquire(Section):
    """Where the sequences come from."""

    inline: ClassVar[bool] = True

    path: PathText = Field(None, description="your .npz or .parquet: x, y and, if there are any, group and lengths")
    title: Line = Field("Own sequences", description="what tables and report call the task")
    unit: Line = Field("units of y", description="what the values in y are in")


class OwnSequences(Section):
    """How they are read and split."""

    head: Literal["auto", "softmax", "identity", "logistic"] = Field(
        "auto", description="auto: y says | softmax: classes | identity: values | logistic: labels, each 0 or 1"
    )
    slices: Slices | None = Field(None, description="T: the last of each, so many at most [slices]; null: all")
    scaling: Literal["z-score", "min-max", "none"] = Field(
        "z-score", description="of each input, on training sequences: z-score | min-max | none"
    )
    split: Literal["auto", "random", "groups", "order"] = Field(
        "auto", description="auto: groups if any, else random | random | groups: whole ones | order: the last"
    )
    test_fraction: float = Field(0.2, gt=0, lt=1, description="share of sequences, or groups, to test on [fraction]")
    validation_fraction: Fraction = Field(0.1, description="share of the rest to choose on [fraction]")
    test_groups: list[Group] | None = Field(None, min_length=1, description="groups: test on these [names]")


class Own(Section):
    """Own sequences: any task from a file."""

    acquire: OwnAcquire = OwnAcquire()
    sequences: OwnSequences = OwnSequences()


class Training(Section):
    """What all tasks and cells share."""

    repetitions: int = Field(2, ge=1, le=10_000, description="paired runs (seeds) of every condition [repetitions]")
    conditions: Conditions = Field(list(CONDITIONS), description="noise conditions to train")
    hidden_injection: Injection = Field(
        "forward", description="forward: all sees noisy gates | backward: that pass only | pre-activation"
    )
    latent: Latent = Field("mean-field", description="z of (81), (89): mean-field: g | sampled: Bernoulli(g)")
    granularity: Granularity = Field("slice", description="one NEM test per layer and slice | neuron | time: sequence")
    gate_clamp: bool = Field(False, description="clip noisy gates to [0, 1]")
    output_delta: OutputDelta = Field("loss", description="noisy softmax: loss: its gradient | literal: a - (y + n)")
    first_target: Slices | None = Field(None, description="t0, first slice with a target [slices]; null: T, the last")
    device: Device = Field("auto", description="auto: CUDA where there is one | cpu | cuda")
    probe: Count = Field(1024, description="training data for the clean training loss [sequences]")
    checkpoint_every: Count = Field(25, description="from one checkpoint to the next [epochs]")
    noise_benefit: bool = Field(False, description="log Q_N - Q (70) per epoch, by importance sampling")


class NoiseValues(Section):
    """Strength and annealing of one noise."""

    sigma: Sigma = Field(0.1, description="standard deviation [scaled target | gate units]")
    decay: Decay = Field(0.5, description="annealing exponent [1]")


class NoiseModes(Section):
    """The noises of one place."""

    inline: ClassVar[bool] = True
    additive: NoiseValues = NoiseValues()
    multiplicative: NoiseValues = NoiseValues()


_LAWS = "gaussian, uniform, laplace, student-t, cauchy (which has no deviation: sigma is its scale)"


class NoiseDensities(Section):
    """Law of the draws: gaussian, uniform, laplace, student-t, cauchy."""

    inline: ClassVar[bool] = True
    output: DensityName = Field("gaussian", description=f"of noise in targets: {_LAWS}")
    hidden: DensityName = Field("gaussian", description=f"of noise in gates: {_LAWS}")


class NoiseTable(Section):
    """sigma [scaled target | gate units], annealed: sigma / (1 + epoch)^decay."""

    density: NoiseDensities = NoiseDensities()
    output: NoiseModes = NoiseModes()
    hidden: NoiseModes = NoiseModes()


class Size(Section):
    """Size and length of a training."""

    inline: ClassVar[bool] = True
    hidden: int = Field(50, ge=1, le=65_536, description="J, size of the hidden layer [units]")
    epochs: Count = Field(100, description="R, after which results are read [epochs]")
    max_epochs: Count = Field(150, description="train on to here, to place negative speed-ups [epochs]")
    batch_size: Count = Field(64, description="B, size of a gradient step [sequences]")

    @model_validator(mode="after")
    def _longer(self) -> "Size":
        if self.max_epochs < self.epochs:
            raise ValueError(f"expected max_epochs >= epochs = {self.epochs}, found {self.max_epochs}; raise it")
        return self


class Network(Size):
    """Size, optimiser and noise."""

    inline: ClassVar[bool] = False
    optimiser: Optimiser = Field("sgd", description="update rule: sgd | adam | rmsprop")
    learning_rate: Rate = Field(0.1, description="step size [1]")
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd and rmsprop; must be 0 for adam [1]")
    noise: NoiseTable = NoiseTable()

    @model_validator(mode="after")
    def _no_second_momentum(self) -> "Network":
        if self.optimiser == "adam" and self.momentum:
            raise ValueError(f"expected momentum 0 with adam (its beta1 is 0.9), found {self.momentum}; set it to 0")
        return self


class TaskNetwork(Network):
    """A network and optimiser per task, and what differs per cell."""

    lstm: dict[str, Any] = Field({}, description="what differs for this cell: some of the keys above")
    gru: dict[str, Any] = Field({}, description="the same")

    def of(self, cell: str) -> Network:
        """Return the network of ``cell``: the common one with the cell's own values laid over it."""
        return Network.model_validate(sections.merge(self.model_dump(exclude={"lstm", "gru"}), getattr(self, cell)))


def _noise(*columns: float) -> NoiseTable:
    """Return a table of (sigma, decay) of additive and of multiplicative noise, in the output and then in the gates."""
    values = [NoiseValues(sigma=sigma, decay=decay) for sigma, decay in zip(columns[::2], columns[1::2], strict=True)]
    output, hidden = (NoiseModes(additive=values[k], multiplicative=values[k + 1]) for k in (0, 2))
    return NoiseTable(output=output, hidden=hidden)


class Train(Section):
    """How each task is trained."""

    # Chosen by `make tune` on validation days of the paper's series; the whole search: docs/tuning_fx.md.
    fx: TaskNetwork = TaskNetwork(
        optimiser="adam", learning_rate=0.003, noise=_noise(0.5, 0.0, 0.1, 1.0, 0.5, 1.0, 0.5, 1.0),
        gru={"noise": _noise(0.2, 0.0, 0.5, 0.0, 0.1, 0.5, 0.1, 0.5).model_dump(exclude={"density"})},
    )  # fmt: skip
    # The paper's network (256 hidden units, 100 epochs); the rest is ours and not tuned.
    video: TaskNetwork = TaskNetwork(
        hidden=256, optimiser="adam", learning_rate=0.001, noise=_noise(0.3, 0.5, 0.3, 0.5, 0.1, 0.5, 0.1, 0.5)
    )
    own: TaskNetwork = TaskNetwork(optimiser="adam", learning_rate=0.003)  # nobody knows better: `make tune TASK=own`

    def of(self, task: str, cell: str) -> dict[str, Any]:
        """Return the network of a cell of ``task`` as a plain mapping."""
        block: TaskNetwork = getattr(self, task)
        return block.of(cell).model_dump()


class Evaluate(Section):
    """How results are summarised."""

    confidence: float = Field(0.95, gt=0, lt=1, description="level of bootstrap intervals [fraction]")
    bootstrap: int = Field(10_000, ge=100, le=10_000_000, description="size of the bootstrap [resamples]")


class StudyRepetitions(Section):
    """Paired repetitions of the map, at chosen settings, of variants."""

    inline: ClassVar[bool] = True
    map: Count = Field(2, description="of the map, with seeds of its own [repetitions]")
    final: Count = Field(10, description="at chosen settings [repetitions]")
    check: Count = Field(5, description="of variants and tests of the theory [repetitions]")


class StudyCentre(Section):
    """SGD setting at which variants are compared."""

    inline: ClassVar[bool] = True
    rate: Rate = Field(0.1, description="learning rate [1]")
    sigma: Sigma = Field(0.3, description="of all noise [scaled target | gate units]")
    decay: Decay = Field(0.0, description="annealing exponent [1]")


class StudyTask(Section):
    """One task's grid (the defaults: the exchange rate's)."""

    splits: list[Split] = Field([], description="splits to compare on, tuned on the first; [] = the task's only one")
    stride: Count = Field(4, description="every so-manieth training sequence [sequences]")
    network: Size = Size(hidden=20, batch_size=32, epochs=30, max_epochs=45)
    rates: Annotated[Rates, AfterValidator(_with_sgd)] = Field(
        {"sgd": [0.01, 0.1, 0.3], "adam": [0.01]}, description="of the map [1]; sgd's first is `slow`"
    )
    noiseless: Rates = Field(
        {"sgd": [0.03, 0.2, 0.5], "adam": [0.003, 0.005, 0.02, 0.03]}, description="more, for the noiseless network [1]"
    )
    central: StudyCentre = StudyCentre()
    groups: list[Count] = Field([], description="for learning curves: train on so many groups of each class [groups]")


STUDY_VIDEO = StudyTask(
    splits=["groups", "random"], stride=1, network=Size(hidden=30, batch_size=64, epochs=25, max_epochs=30),
    rates={"sgd": [0.01, 0.1, 0.5], "adam": [0.003]}, noiseless={"sgd": [0.03, 0.3, 1.0], "adam": [0.001, 0.01]},
    groups=[1, 2],
)  # fmt: skip


class Study(Section):
    """The study's grid (make study)."""

    repetitions: StudyRepetitions = StudyRepetitions()
    sigmas: list[Sigma] = Field([0.1, 0.3, 1.0], min_length=1, description="of outputs and gates [their units]")
    decays: list[Decay] = Field([0.0, 1.0], min_length=1, description="annealing exponents [1]")
    tasks: dict[Task, StudyTask] = Field({"fx": StudyTask(), "video": STUDY_VIDEO}, description="one block a task")


class Params(Section):
    """The whole of ``params.yaml``."""

    profile: Word = Field("demo", description="what this was composed from")
    seed: int = Field(1, ge=0, lt=2**63, description="root of the seed tree [integer]")
    tasks: Once[Task] = Field(["fx", "video"], description="what is acquired, trained and evaluated")
    cells: Once[Cell] = Field(["lstm", "gru"], description="recurrent cells to train")
    mirror: PathText = Field(None, description="folder of data to look in before the network; NEM_MIRROR goes first")
    fx: Fx = Fx()
    video: Video = Video()
    own: Own = Own()
    training: Training = Training()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    study: Study = Study()


def validate(content: dict[str, Any], source: str = "params", *, whole: bool = False) -> Params:
    """Return the parameters of a mapping from ``source``; ``whole``: none may be missing, though there are defaults."""
    wrong: list[str] = []
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        wrong += sections.faults(error, Params)
    else:
        for task, cell in itertools.product(Train.model_fields, get_args(Cell)):
            try:
                getattr(params.train, task).of(cell)
            except ValidationError as error:
                wrong += sections.faults(error, Params, ("train", task, cell))
    if whole:
        wrong += [f"{name}: missing; add {line}" for name, line in sections.missing(content, Params())]
    sections.refuse(source, wrong)
    return params


def load(source: Path = paths.PARAMS) -> Params:
    """Read and validate a parameter file, which must be complete."""
    return validate(sections.read(source), str(source), whole=True)


def use_mirror(settings: Params) -> None:
    """Let this process and its workers look in the mirror that is named, unless the environment names one."""
    if settings.mirror:
        os.environ.setdefault(paths.MIRROR_VARIABLE, settings.mirror)


def profile(name: str) -> Params:
    """Return the parameters of a profile: the schema's defaults with ``profiles/<name>.yaml`` laid over them."""
    source = paths.PROFILES / f"{name}.yaml"
    if not source.is_file():
        raise ParamsError(f"expected one of the profiles {_profiles()}, found {name!r}; choose one")
    changes = {**sections.read(source), "profile": name}
    return validate(sections.merge(Params().model_dump(), changes), str(source))


def _profiles() -> list[str]:
    return sorted(file.stem for file in paths.PROFILES.glob("*.yaml"))


def render(params: Params) -> str:
    """Return ``params`` as YAML, with every parameter's meaning at the end of its line."""
    title = "# The experiment, complete and free to edit. Other profiles: python -m pipeline.params compose PROFILE."
    return "\n".join([title, *sections.lines(params, set())]) + "\n"


def compose(name: str, destination: Path = paths.PARAMS, *, force: bool = False) -> bool:
    """Write a profile unless it is there; return whether it was. Without ``force``, edits there are a fault."""
    wanted = render(profile(name))
    present = destination.read_text(encoding="utf-8") if destination.is_file() else None
    if present == wanted:
        return False
    if present is not None and not force and present not in map(render, map(profile, _profiles())):
        remedy = "`make repro` without PROFILE keeps them, profiles/<name>.yaml saves them, FORCE=1 overwrites them"
        raise ParamsError(f"expected {destination} to be a profile, found edits that would be lost; {remedy}")
    records.write_text(destination, wanted)
    return True


ARGUMENTS: dict[str, dict[str, Any]] = {
    "action": {"choices": ("compose", "check")},
    "name": {"nargs": "?", "help": "for compose: the profile to write out"},
    "--force": {"action": "store_true", "help": "for compose: overwrite hand edits"},
}


@command.stage("params", ARGUMENTS)
def main(action: str, name: str, force: bool) -> None:
    """Compose or check ``params.yaml``."""
    if action == "compose":
        print(f"params.yaml: profile {name}{'' if compose(name, force=force) else ' (already)'}")
    else:
        print(f"params.yaml: valid, profile {load().profile}")
