"""The pipeline's description against the code: what a stage depends on, and what a change reruns."""

import copy
import functools
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from nem.conditions import CONDITIONS
from pipeline import params
from tests.conftest import ROOT
from tests.test_imports import MODULES, imports, tree
from tools import plots_page

DVC = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
STAGES = {**DVC["stages"], "acquire": {**DVC["stages"]["acquire"]["do"], "items": DVC["stages"]["acquire"]["foreach"]}}
PARAMETERS = {"pipeline/params.py", "pipeline/sections.py"}
"""They only check values that DVC tracks itself, since params.yaml is complete: they decide no output."""
VIEWS = {"pipeline/tracking.py", "pipeline/serving.py"}
"""MLflow shows what is in files: it decides no output."""
ROOMS = ("stages", "pipeline", "nem")
PARSED = functools.cache(lambda kind, text, load=YAML.load: load(YAML(typ=kind), text))


def name_of(file):
    return file.relative_to(ROOT).as_posix()


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
    # The docstring of a package decides nothing.
    held = [file for file in map(MODULES.get, seen) if file.name != "__init__.py" or len(tree(file).body) > 1]
    return set(map(name_of, held))


def covers(dep, file):
    return file == dep or file.startswith(f"{dep}/")


def code(stage):
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


def test_stages_are_thin_commands():
    for name, stage in STAGES.items():
        assert stage["cmd"].startswith(f"python -m stages.{name}")
    for file in (ROOT / "stages").glob("*.py"):
        assert len(file.read_text().splitlines()) < 100, f"{file.name}: the work belongs to the library"
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 120


def test_parameters_that_stages_track_exist_and_all_that_matter_are_tracked():
    whole, tracked = params.Params().model_dump(), set()
    for stage in STAGES.values():
        for key, task, cell in itertools.product(stage["params"], ("fx", "video", "own"), ("lstm", "gru")):
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


ACQUIRE = {"acquire@fx", "acquire@video", "acquire@own"}
EVERYTHING = ACQUIRE | {"windows", "sequences", "frames", "features", "clips", "evaluate"}
FX, VIDEO = {"train@fx-lstm", "train@fx-gru"}, {"train@video-lstm", "train@video-gru"}
TRAIN = FX | VIDEO
AFTER_FRAMES = {"features", "clips", "evaluate"}
RERUNS = [
    # what is to be run, what its results may train again: files and parameters that change
    (set(), set(), "docs/theory.md", "pipeline/params.py", "pipeline/sections.py", "pipeline/tracking.py",
     "pipeline/study/claims.py", "study.sigmas=[0.1]"),
    ({"evaluate"}, set(), "pipeline/evaluation/report.html.j2", "pipeline/evaluation/statistics.py",
     "pipeline/tasks/video.py", "stages/evaluate.py", "evaluate.confidence=0.9", "profile=mine"),
    ({"acquire@fx", "windows", "evaluate"}, FX, "pipeline/fx/windows.py"),
    ({"acquire@fx"}, FX, "fx.acquire.synthetic_days=99"),
    ({"windows"}, FX, "fx.windows.scaling=min-max"),
    (FX, FX, "train.fx.learning_rate=0.01"),
    ({"train@fx-lstm"}, {"train@fx-lstm"}, "train.fx.lstm={momentum: 0.0}"),
    ({"acquire@video", "evaluate"}, VIDEO, "pipeline/video/acquire/ucf11.py"),
    ({"acquire@video", "frames"} | AFTER_FRAMES, VIDEO, "pipeline/video/layout.py"),
    ({"frames"} | AFTER_FRAMES, VIDEO, "pipeline/video/frames/sampling.py"),
    ({"frames"}, VIDEO, "video.frames.rate=2.0"),
    (AFTER_FRAMES, VIDEO, "pipeline/video/features/inception.py"),
    ({"features"}, VIDEO, "video.features.batch_size=3"),
    ({"clips", "evaluate"}, VIDEO, "pipeline/video/clips.py"),
    ({"clips"}, VIDEO, "video.clips.stride=2"),
    (VIDEO, VIDEO, "train.video.noise.hidden.additive.sigma=0.2"),
    ({"train@video-gru"}, {"train@video-gru"}, "train.video.gru={hidden: 3}"),
    (TRAIN | {"evaluate"}, TRAIN, "pipeline/training/engine.py", "nem/noise.py"),
    (TRAIN, TRAIN, "stages/train.py", "training.repetitions=9"),
    (EVERYTHING | TRAIN, TRAIN, "pipeline/common/seeds.py"),
    (ACQUIRE | {"sequences"} | AFTER_FRAMES | TRAIN, TRAIN, "seed=2"),
    (ACQUIRE | {"evaluate"}, FX, "tasks=[fx]"),
    ({"acquire@own", "sequences"}, set(), "pipeline/own/split.py"),
    ({"sequences"}, set(), "own.sequences.test_fraction=0.5"),
]  # fmt: skip


def copied(folder, *prefixes):
    """Copy what git knows of this project, and new files that it does not ignore, into a fresh repository."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = ("nem/", "pipeline/", "stages/", "profiles/", ".dvc/", "dvc.yaml", ".dvcignore", ".gitignore", "none")
    wanted += ("docs/errata.md", "docs/study.md", *prefixes)
    compiled = map(name_of, (ROOT / "nem/__pycache__").glob("*.nb[ic]"))  # which numba knows by the sources' times
    for name in filter(None, [*listed.stdout.split("\0"), *compiled]):
        if name.startswith(wanted) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


def command(folder, *arguments):
    scripts = os.path.dirname(sys.executable)  # noqa: PTH120
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "PATH": scripts + os.pathsep + os.environ["PATH"]}
    environment.pop("MLFLOW_TRACKING_URI", None)
    line = [sys.executable, "-m", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@contextmanager
def opened(folder):
    """DVC's view of a folder, in it. It parses params.yaml for every stage, which takes most of its time: here once."""
    from dvc.repo import Repo

    with pytest.MonkeyPatch.context() as patch, Repo(folder) as repo:
        patch.chdir(folder)
        patch.setattr(YAML, "load", lambda yaml, text: copy.deepcopy(PARSED(yaml.typ[0], text)))
        yield repo


@contextmanager
def committed(folder):
    """The same, whose outputs are committed at the end."""
    with opened(folder) as repo:
        yield repo
        repo.commit(force=True)
        assert repo.status() == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the project in which every output is there (though not what stages would write) and committed."""
    folder = copied(tmp_path_factory.mktemp("finished"), "docs/theory.md")
    (folder / "params.yaml").write_text(params.render(params.profile("demo")))
    with committed(folder) as repo:
        for place in (Path(out.fs_path) for out in repo.index.outs):
            file = place if place.suffix else place / "source.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
    return folder


def stale(folder):
    """What DVC would run: the stages whose own inputs changed, and those that may change in turn."""
    import networkx

    with opened(folder) as repo:
        changed = {name.removeprefix("dvc.yaml:") for name in repo.status()}
        graph = repo.index.graph
        own = {stage for stage in graph if stage.addressing in changed}
        in_turn = {user.addressing for stage in own for user in networkx.ancestors(graph, stage)}
    return changed, {name for name in changed | in_turn if name.startswith("train@")}


@contextmanager
def restored(*files):
    """Put files back as they were; what the first one held."""
    before = {file: file.read_text() for file in files}
    try:
        yield before[files[0]]
    finally:
        for file, text in before.items():
            file.write_text(text)


@pytest.mark.parametrize(("change", "run", "again"), [(c, run, again) for run, again, *cs in RERUNS for c in cs])
def test_what_a_change_reruns(change, run, again, finished):
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
        assert stale(finished) == (run, again)


OUTSIDE = {
    "csv_path": {"acquire@fx"}, "path": {"acquire@own"}, "folder": {"acquire@video"},
    "features_path": {"acquire@video"}, "weights_path": {"features"}, "mirror": ACQUIRE | {"features"},
}  # fmt: skip


@pytest.mark.parametrize(("name", "stages"), OUTSIDE.items())
def test_what_lies_outside_is_watched_where_a_parameter_names_it(name, stages, finished, tmp_path):
    """A file or a folder; where none is named, the file ``none`` stands for it."""
    outside = tmp_path / "mine"
    file = outside / "class" / "clip.avi" if name in ("folder", "mirror") else outside
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("first")
    with restored(finished / "params.yaml", finished / "dvc.lock") as before:
        changed, count = re.subn(rf"\b{name}: none(?=[ ,])", f"{name}: {outside}", before)
        assert count == 1
        (finished / "params.yaml").write_text(changed)
        assert stages <= stale(finished)[0]
        with committed(finished):
            pass
        file.write_text("second, of another size")
        assert stale(finished)[0] == stages


def test_a_default_that_changes_reruns_its_task_once_params_are_composed_again(finished):
    schema = finished / "pipeline" / "params.py"
    with restored(schema, finished / "params.yaml") as before:
        schema.write_text(before.replace("learning_rate=0.003", "learning_rate=0.004"))
        assert stale(finished) == (set(), set())
        assert command(finished, "pipeline.params", "compose", "demo", "--force").returncode == 0
        assert stale(finished) == (FX, FX)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_task_alone_runs_rests_and_comes_back_from_the_cache(tmp_path):
    folder, content = copied(tmp_path), params.Params(tasks=["fx"]).model_dump()
    content["fx"]["acquire"]["synthetic_days"], content["fx"]["windows"]["train_end"] = 80, 60
    content["evaluate"]["bootstrap"], content["training"]["repetitions"] = 100, 2
    content["train"]["fx"] |= {"hidden": 3, "epochs": 2, "max_epochs": 3}
    (folder / "params.yaml").write_text(params.render(params.validate(content)))
    first = command(folder, "dvc", "repro")
    assert first.returncode == 0, first.stderr[-3000:]
    metrics = json.loads((folder / "data" / "results" / "metrics.json").read_text())
    assert set(metrics) == {"fx", "baselines"}
    assert metrics["fx"]["gru"]["none"]["test_mse"]["n"] == 2
    assert "Data and pipelines are up to date." in command(folder, "dvc", "repro").stdout
    shutil.rmtree(folder / "data" / "runs")
    again = command(folder, "dvc", "repro")
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Running stage 'train" not in again.stdout, "runs come back from DVC's cache"
    assert command(folder, "dvc", "status", "-q").returncode == 0
    # The README's commands, in a shell that knows nothing of the environment.
    (folder / ".venv").symlink_to(Path(sys.prefix))
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    block = next(text for text in blocks if "activate" in text)
    bare = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(["bash", "-ec", block], cwd=folder, env=bare, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "summary.json" in done.stdout
    assert "speed_up_percent" in done.stdout


def test_dvc_plots_draw_a_line_per_condition_without_the_network(tmp_path, monkeypatch):
    """With the committed plots, template and page, on curves that are made up."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / ".dvc/plots", ".dvc/plots")
    shutil.copy(ROOT / ".dvc/config", ".dvc/config")
    Path(".dvc/config.local").write_text("[core]\n    no_scm = true\n[plots]\n    html_template = tmp/plots.html\n")
    plots = (ROOT / "dvc.yaml").read_text().partition("\nplots:")[2].partition("\n")[2]
    Path("dvc.yaml").write_text("plots:\n" + plots)
    Path("data/results/plots").mkdir(parents=True)
    lines = [f"{name},{epoch},{1 + epoch},fx lstm" for name in CONDITIONS for epoch in range(3)]
    Path("data/results/plots/fx_lstm.csv").write_text("condition,epoch,test_loss,run\n" + "\n".join(lines) + "\n")
    plots_page.main()
    subprocess.run([sys.executable, "-m", "dvc", "plots", "show", "-o", "out"], check=True, capture_output=True)
    page = Path("out/index.html").read_text("utf-8")
    specification = page.partition("</script></head>")[2]
    assert all(f'"condition": "{name}"' in specification for name in CONDITIONS)
    assert '"color": {"field": "condition"' in specification
    assert not re.search(r"<(script|link)[^>]+(src|href)=", page)
