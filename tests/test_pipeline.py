"""The pipeline's description against the code: what a stage depends on, and what a change reruns."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import params
from tests.conftest import ROOT
from tests.test_imports import MODULES, imports, tree

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = {**DVC["stages"], "acquire": {**DVC["stages"]["acquire"]["do"], "items": DVC["stages"]["acquire"]["foreach"]}}
PARAMETERS = {"pipeline/params.py", "pipeline/sections.py"}
"""They only check values that DVC tracks itself, since params.yaml is complete: they decide no output."""
VIEWS = {"pipeline/tracking.py", "pipeline/serving.py"}
"""MLflow shows what is in files: it decides no output."""
ROOMS = ("stages", "pipeline", "nem")


def name_of(file):
    return file.relative_to(ROOT).as_posix()


def bare(file):
    """Whether a file is the docstring of a package, and nothing else."""
    return file.name == "__init__.py" and len(tree(file).body) <= 1


def reached(stage, without):
    """Files of all modules that a stage imports, and of the packages that hold them."""
    seen, waiting = set(), [f"stages.{stage}"]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in seen and name_of(MODULES[name]) not in without:
            seen.add(name)
            waiting += [*imports(MODULES[name])[0], name.rpartition(".")[0]]
            # Tasks are loaded by name, so that a new one is a new file.
            waiting += [other for other in MODULES if name == "pipeline.tasks" and other.startswith(f"{name}.")]
    return {name_of(MODULES[name]) for name in seen if not bare(MODULES[name])}


def covers(dep, file):
    return file == dep or file.startswith(f"{dep}/")


def code(stage):
    """A stage's dependencies on code, in all its items."""
    items = STAGES[stage].get("items", {"": {}}).values()
    for dep, item in itertools.product(STAGES[stage]["deps"], items):
        text = re.sub(r"\$\{item\.(code|writer|list)\}", lambda match: item[match[1]], dep)  # noqa: B023
        if text.startswith(ROOMS):
            yield text


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_deps_name_every_file_that_a_stage_reaches_and_no_folder_in_vain(stage):
    files, deps = reached(stage, PARAMETERS | VIEWS), set(code(stage))
    missing = sorted(file for file in files if not any(covers(dep, file) for dep in deps))
    assert not missing, f"add to deps of stage {stage} in dvc.yaml: {missing}"
    vain = sorted(dep for dep in deps if not any(covers(dep, file) for file in files))
    assert not vain, f"remove from deps of stage {stage} in dvc.yaml: {vain}"


def test_deps_exist_and_stages_are_thin_commands():
    for name, stage in STAGES.items():
        assert stage["cmd"].startswith(f"python -m stages.{name}")
        assert all((ROOT / dep).exists() for dep in code(name)), name
    for file in (ROOT / "stages").glob("*.py"):
        if file.name != "__init__.py":
            assert len(file.read_text().splitlines()) < 100, f"{file.name}: the work belongs to the library"
            assert "def main(" in file.read_text()
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 120


def test_parameters_that_stages_track_exist_and_all_that_matter_are_tracked():
    whole, tracked = params.Params().model_dump(), set()
    for stage in STAGES.values():
        for key, task, cell in itertools.product(stage["params"], ("fx", "video"), ("lstm", "gru")):
            name = re.sub(r"\$\{(?:key|item\.task)\}", task, key).replace("${item.cell}", cell)
            node = whole
            for part in name.split("."):
                assert part in node, name
                node = node[part]
            tracked.add(name)

    def leaves(content, place=""):
        for key, value in content.items():
            name = f"{place}{key}"
            if name not in tracked:
                yield from leaves(value, f"{name}.") if isinstance(value, dict) and value else [name]

    # A mirror is watched by what it holds, not by its name.
    assert [name for name in leaves(whole) if not name.startswith("study.")] == ["mirror"]


# --- What a change reruns -------------------------------------------------------------------------------------------

EVERYTHING = {"acquire@fx", "acquire@video", "windows", "frames", "features", "clips", "evaluate"}
FX, VIDEO = {"train@fx-lstm", "train@fx-gru"}, {"train@video-lstm", "train@video-gru"}
TRAIN = FX | VIDEO
RERUNS = {
    # a file that changes: what is to be run, and what its results may train again
    "docs/theory.md": (set(), set()),
    "pipeline/params.py": (set(), set()),
    "pipeline/sections.py": (set(), set()),
    "pipeline/tracking.py": (set(), set()),
    "pipeline/study/claims.py": (set(), set()),
    "pipeline/evaluation/report.html.j2": ({"evaluate"}, set()),
    "pipeline/evaluation/statistics.py": ({"evaluate"}, set()),
    "pipeline/tasks/video.py": ({"evaluate"}, set()),
    "pipeline/fx/windows.py": ({"acquire@fx", "windows", "evaluate"}, FX),
    "pipeline/video/acquire/ucf11.py": ({"acquire@video", "evaluate"}, VIDEO),
    "pipeline/video/layout.py": ({"acquire@video", "frames", "features", "clips", "evaluate"}, VIDEO),
    "pipeline/video/frames/sampling.py": ({"frames", "features", "clips", "evaluate"}, VIDEO),
    "pipeline/video/features/inception.py": ({"features", "clips", "evaluate"}, VIDEO),
    "pipeline/video/clips.py": ({"clips", "evaluate"}, VIDEO),
    "pipeline/training/engine.py": (TRAIN | {"evaluate"}, TRAIN),
    "nem/noise.py": (TRAIN | {"evaluate"}, TRAIN),
    "pipeline/common/seeds.py": (EVERYTHING | TRAIN, TRAIN),
    "stages/train.py": (TRAIN, TRAIN),
    "stages/evaluate.py": ({"evaluate"}, set()),
    # a parameter that changes
    "profile=mine": ({"evaluate"}, set()),
    "tasks=[fx]": ({"acquire@fx", "acquire@video", "evaluate"}, FX),
    "seed=2": ({"acquire@fx", "acquire@video", "features", "clips", "evaluate"} | TRAIN, TRAIN),
    "fx.acquire.synthetic_days=99": ({"acquire@fx"}, FX),
    "fx.windows.scaling=min-max": ({"windows"}, FX),
    "video.frames.rate=2.0": ({"frames"}, VIDEO),
    "video.features.batch_size=3": ({"features"}, VIDEO),
    "video.clips.stride=2": ({"clips"}, VIDEO),
    "training.repetitions=9": (TRAIN, TRAIN),
    "train.fx.learning_rate=0.01": (FX, FX),
    "train.fx.lstm={momentum: 0.0}": ({"train@fx-lstm"}, {"train@fx-lstm"}),
    "train.video.noise.hidden.additive.sigma=0.2": (VIDEO, VIDEO),
    "train.video.gru={hidden: 3}": ({"train@video-gru"}, {"train@video-gru"}),
    "evaluate.confidence=0.9": ({"evaluate"}, set()),
    "study.sigmas=[0.1]": (set(), set()),
}


def copied(folder, *prefixes):
    """Copy what git knows of this project, and new files that it does not ignore, into a fresh repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    wanted = ("nem/", "pipeline/", "stages/", "profiles/", ".dvc/", "dvc.yaml", ".dvcignore", ".gitignore", "none")
    wanted += prefixes
    for name in filter(None, listed.stdout.split("\0")):
        if name.startswith(wanted) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def command(folder, *arguments):
    """Run a Python module in a folder, as its user would."""
    scripts = os.path.dirname(sys.executable)  # noqa: PTH120
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": scripts + os.pathsep + os.environ["PATH"]}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )


@contextmanager
def within(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project in which every output is there (though not what stages would write) and committed."""
    from dvc.repo import Repo

    folder = copied(tmp_path_factory.mktemp("finished"), "docs/theory.md")
    (folder / "params.yaml").write_text(params.render(params.profile("demo")))
    with within(folder), Repo(folder) as repo:
        for out in repo.index.outs:
            path = Path(out.fs_path)
            (path if path.suffix else path / "source.json").parent.mkdir(parents=True, exist_ok=True)
            (path if path.suffix else path / "source.json").write_text("{}")
        repo.commit(force=True)
        assert repo.status() == {}
    return folder


def stale(folder):
    """What DVC would run: the stages whose own inputs changed, and those that may change in turn."""
    import networkx
    from dvc.repo import Repo

    with within(folder), Repo(folder) as repo:
        changed = {name.removeprefix("dvc.yaml:") for name in repo.status()}
        graph = repo.index.graph
        own = {stage for stage in graph if stage.addressing in changed}
        in_turn = {user.addressing for stage in own for user in networkx.ancestors(graph, stage)}
    return changed, {name for name in changed | in_turn if name.startswith("train@")}


@contextmanager
def restored(*files):
    """Put files back as they were."""
    before = [file.read_text() for file in files]
    try:
        yield before[0]
    finally:
        for file, text in zip(files, before, strict=True):
            file.write_text(text)


@pytest.mark.parametrize("change", RERUNS)
def test_what_a_change_reruns(change, finished):
    name, _, value = change.partition("=")
    file = finished / ("params.yaml" if value else name)
    with restored(file) as before:
        if value:
            *place, key = name.split(".")
            content = node = YAML(typ="safe").load(before)
            for part in place:
                node = node[part]
            new = YAML(typ="safe").load(value)
            assert node[key] != new, "no change at all"
            node[key] = new
            params.validate(content, whole=True)
            YAML(typ="safe").dump(content, file)
        else:
            file.write_text(before + "\n# another comment\n")
        assert stale(finished) == RERUNS[change]


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("fx.acquire.csv_path", {"acquire@fx"}),
        ("video.acquire.folder", {"acquire@video"}),
        ("video.acquire.features_path", {"acquire@video"}),
        ("video.features.weights_path", {"features"}),
        ("mirror", {"acquire@fx", "acquire@video", "features"}),
    ],
)
def test_what_lies_outside_is_watched_where_a_parameter_names_it(name, stages, finished, tmp_path):
    """A file or a folder; where none is named, the file ``none`` stands for it."""
    from dvc.repo import Repo

    outside = tmp_path / "mine" if name.endswith(("folder", "mirror")) else tmp_path / "mine.csv"
    file = outside / "class" / "clip.avi" if outside.suffix == "" else outside
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("first")
    with restored(finished / "params.yaml", finished / "dvc.lock") as before:
        line = f"{name.rpartition('.')[2]}: none "
        assert before.count(line) == 1
        (finished / "params.yaml").write_text(before.replace(line, line.replace("none", str(outside))))
        assert stages <= stale(finished)[0]
        with within(finished), Repo(finished) as repo:
            repo.commit(force=True)
            assert repo.status() == {}
        file.write_text("second, of another size")
        assert stale(finished)[0] == stages


def test_a_default_that_changes_reruns_its_task_once_params_are_composed_again(finished):
    schema = finished / "pipeline" / "params.py"
    with restored(schema, finished / "params.yaml") as before:
        schema.write_text(before.replace("learning_rate=0.003", "learning_rate=0.004"))
        assert stale(finished) == (set(), set())
        assert command(finished, "pipeline.params", "compose", "demo", "--force").returncode == 0
        assert stale(finished) == (FX, FX)


def test_one_task_alone_needs_no_other_edit(finished):
    file = finished / "params.yaml"
    with restored(file) as before:
        alone = before.replace("tasks: [fx, video]", "tasks: [video]")
        assert alone != before
        file.write_text(alone)
        listed = command(finished, "dvc", "stage", "list", "--name-only")
        assert set(listed.stdout.split()) == EVERYTHING | VIDEO


def test_torchvision_imports():
    import torchvision

    assert torchvision.ops.nms is not None
