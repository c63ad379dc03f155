"""The house as a whole: arrows point down, libraries stay behind their doors, and nothing grows without notice."""

import ast
import functools
import graphlib
import re
import subprocess
import sys

import pytest

import nem
from tests.conftest import ROOT

HOUSES = ("nem", "pipeline", "stages", "tools")
ABOVE = {
    "nem": (),
    "common": (),
    "fx": ("nem", "common"),
    "video": ("nem", "common"),
    "own": ("nem", "common"),
    "training": ("nem", "common"),
    "sections": ("common",),
    "params": ("nem", "common", "training", "sections"),
    "evaluation": ("nem", "common", "training"),
    "tasks": ("nem", "common", "training", "params", "evaluation", "fx", "video"),
    "compare": ("nem", "common", "own", "training", "params", "evaluation", "tasks"),
    "serving": ("nem", "common", "training"),
    "tracking": ("nem", "common", "training", "evaluation", "tasks"),
    "study": ("nem", "common", "training", "sections", "params", "evaluation", "tasks"),
    "why": ("nem", "common", "fx", "video", "training", "params", "evaluation", "tasks", "study"),
}
"""What a part of the house may import besides itself; stages and tools stand above all."""
MAY_KNOW_PARAMS = ("pipeline.training.tune",)
NAMES = ("fx", "video", "own")
NAMING = (*(f"pipeline.{name}" for name in (*NAMES, "tasks", "params", "compare")), "stages", "tools")
"""The only ones that may say what tasks there are."""
OPTIONAL = ("numba", "threadpoolctl")  # of `nem[fast]`: the library works without
FILE, PARAMETERS = 500, 8
"""Most lines of one file, and most parameters of one function."""
LONG = {"nem/kernels.py": 696}
"""Files that may be longer: numba's cache on disk does not see a change in another one."""
HOUSE = {"product": 11_500, "tests": 9_000}
"""Most lines of product code and of tests that are not in ``ROOMS``, without what other files ``GREW`` by."""
ROOMS = {  # most lines of files that are there for later work alone
    ("pipeline/why/", "stages/why.py"): 1_850, ("tests/why/",): 560,  # the study of one question
    ("pipeline/evaluation/predictive.py",): 100,  # its predictions
    ("tests/nem/test_penalty.py",): 140,  # the penalty that blind noise in gates is
    ("pipeline/evaluation/charts.py", "pipeline/evaluation/documents.py"): 175,  # the report as a page
    ("tests/evaluation/test_page.py",): 290,
    ("tests/tracking/test_pages.py", "tests/tracking/chromium.py"): 260,  # MLflow as people see it
    ("pipeline/evaluation/summary.py", "tools/closing.py", "tools/plots_page.py"): 120,  # few numbers for DVC, console
    ("nem/densities.py", "nem/directions.py", "nem/many.py"): 682,  # other noise, layers as people have them, stacks
    ("nem/gaussian.py",): 175,  # draws in compiled code
    ("tests/nem/test_densities.py", "tests/nem/test_losses.py", "tests/nem/test_many.py",
     "tests/nem/test_deep_layers.py"): 1_085,
    ("pipeline/own/", "pipeline/compare.py", "pipeline/tasks/own.py", "stages/sequences.py"): 550,  # own sequences
    ("tests/own/", "tests/test_examples.py"): 480,
    ("pipeline/common/cluster.py", "pipeline/common/machine.py", "tools/scaling.py"): 560, ("tests/cluster/",): 600,
    ("tools/bench/",): 1_100,  # every hot path against floor and peers
}  # fmt: skip
GREW = {  # lines that came into other files with it: `git diff --stat dd7f78c c0af61c`, of tests `2c46350 c0af61c`
    "a page, and pictures that say what is seen": {
        "pipeline/evaluation/report.py": 150, "pipeline/evaluation/figures.py": 18, "pipeline/evaluation/style.py": 16,
        "pipeline/study/figures.py": 17, "pipeline/tasks/fx.py": 8, "pipeline/tasks/video.py": 6,  # after c0af61c
        "tests/test_numbers.py": 37, "tests/evaluation/test_evaluate.py": 33},
    "MLflow as people see it": {"pipeline/tracking.py": 159, "stages/track.py": 35, "pipeline/serving.py": 10},
    "DVC and the console": {"pipeline/common/command.py": 14, "tools/readme.py": 9},
    "readings of the paper, and the penalty": {
        "nem/stack.py": 79, "nem/noise.py": 49, "nem/cells.py": 5, "nem/conditions.py": 3,
        "pipeline/training/engine.py": 14, "pipeline/training/settings.py": 4, "pipeline/fx/acquire.py": 7,
        "tests/nem/test_noise.py": 57, "tests/training/test_engine.py": 34, "tests/nem/test_stack.py": 11},
    "verdicts by equivalence and in the paper's regime": {
        "pipeline/study/claims.py": 25, "stages/study.py": 2, "tests/study/test_claims.py": 50},
    "other people's data, networks and noise, and a cluster, and speed": {  # `git diff --stat cfcc3f1`
        "nem/__init__.py": 12, "nem/cells.py": 7, "nem/fast.py": 16, "nem/layers.py": 66, "nem/losses.py": 164,
        "nem/noise.py": 69, "nem/stack.py": 75, "nem/theory/__init__.py": 2, "nem/theory/gains.py": 11,
        "nem/theory/gem.py": 4, "nem/theory/recursions.py": 4, "pipeline/common/jobs.py": 82,
        "pipeline/common/sequences.py": 15, "pipeline/evaluation/evaluate.py": 2, "pipeline/evaluation/metrics.py": 5,
        "pipeline/evaluation/report.py": 1, "pipeline/evaluation/tables.py": 1, "pipeline/evaluation/task.py": 30,
        "pipeline/fx/acquire.py": 1, "pipeline/fx/windows.py": 10, "pipeline/params.py": 33, "pipeline/sections.py": 43,
        "pipeline/serving.py": 1, "pipeline/tasks/fx.py": 8, "pipeline/tracking.py": 9,
        "pipeline/training/engine.py": 72, "pipeline/training/results.py": 1, "pipeline/training/settings.py": 27,
        "pipeline/training/train.py": 150, "pipeline/training/tune.py": 17, "pipeline/video/features/features.py": 21,
        "pipeline/video/frames/codec.py": 10, "pipeline/video/frames/frames.py": 27,
        "pipeline/video/frames/sampling.py": 16, "stages/acquire.py": 5, "stages/track.py": 8,
        "tests/common/test_jobs.py": 33, "tests/evaluation/test_evaluate.py": 34,
        "tests/fx/test_windows.py": 14, "tests/nem/test_noise.py": 3, "tests/nem/test_stack.py": 36,
        "tests/nem/theory/networks.py": 5, "tests/nem/theory/test_expected.py": 20, "tests/nem/theory/test_gains.py": 7,
        "tests/test_imports.py": 43, "tests/common/test_records.py": 17,
        "tests/test_numbers.py": 2, "tests/test_params.py": 9, "tests/test_pipeline.py": 5, "tests/test_setup.py": 4,
        "tests/training/small.py": 2, "tests/training/test_engine.py": 84, "tests/training/test_train.py": 119,
        "tests/video/test_features.py": 25, "tests/video/test_frames.py": 26, "tools/audit.py": 2,
        "tools/readme.py": 23},
    "a network forward, through its output neurons and back while it is in the cache": {
        "nem/kernels.py": 295, "tests/nem/test_stack.py": 50, "tests/test_setup.py": 1,
        "tests/training/test_gpu.py": 40},
    "matrix products of our own for one network in one slice": {
        "nem/kernels.py": 120, "pipeline/training/engine.py": 5, "tests/nem/test_stack.py": 26,
        "tests/test_imports.py": 4, "tests/training/test_engine.py": 13},
    "sequences that share slices, and processes that load what they need": {
        "nem/kernels.py": 5, "nem/fast.py": 12, "nem/stack.py": 46, "pipeline/training/engine.py": 3,
        "pipeline/common/jobs.py": 39, "pipeline/common/sequences.py": 9, "pipeline/common/records.py": 1,
        "pipeline/training/results.py": 5, "pipeline/evaluation/style.py": 3, "stages/features.py": 2,
        "stages/train.py": 1, "tests/nem/test_stack.py": 28, "tests/common/test_jobs.py": 22,
        "tests/training/test_train.py": 2},
    "marks of what takes long": {
        "tests/test_setup.py": 3, "tests/video/test_features.py": 1, "tests/test_pipeline.py": 1,
        "tests/video/test_stages.py": 1, "tests/study/test_claims.py": 1,
        "tests/evaluation/test_evaluate.py": 5, "tests/training/test_engine.py": 1},
}  # fmt: skip


def files(*folders):
    return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))


def module(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree(file):
    return ast.parse(file.read_text("utf-8"))


MODULES = {module(file): file for file in files(*HOUSES)}


def imports(file):
    """What a module imports when it runs, wherever in it that stands: own modules, and names of libraries."""
    own, libraries = set(), set()
    typing_only = {
        inner
        for node in ast.walk(tree(file))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(ast.Module(node.body, []))
    }
    for node in ast.walk(tree(file)):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and node not in typing_only:
            assert not getattr(node, "level", 0), f"{file}: relative import"
            before = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for name in (before + alias.name for alias in node.names):
                while name.partition(".")[0] in HOUSES and name not in MODULES:
                    name = name.rpartition(".")[0]
                (own if name in MODULES else libraries).add(name if name in MODULES else name.partition(".")[0])
    return own, libraries - set(sys.stdlib_module_names)


def part(name):
    """Which part of the house a module belongs to; "" for its front doors."""
    head, _, rest = name.partition(".")
    return rest.partition(".")[0] if head == "pipeline" else head


def inside(name, packages):
    return any(name == package or name.startswith(package + ".") for package in packages)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_arrows_point_down(name):
    mine, allowed = part(name), ABOVE.get(part(name))
    assert allowed is not None or mine in ("", "stages", "tools"), f"{name} belongs to no part of the house"
    for other in imports(MODULES[name])[0]:
        theirs = part(other)
        if mine == "stages":
            assert theirs != "tools", other
        elif mine != "tools" and not (theirs == "params" and name in MAY_KNOW_PARAMS):
            assert theirs == mine or theirs in allowed, f"{name} imports {other}"


def test_no_cycle():
    graphlib.TopologicalSorter({name: imports(file)[0] for name, file in MODULES.items()}).prepare()


def test_libraries_stay_behind_their_doors():
    uses = {name: imports(file)[1] for name, file in MODULES.items()}

    def users(library, *packages):
        return {name for name, libraries in uses.items() if library in libraries and inside(name, packages or HOUSES)}

    own = set().union(*(libraries for name, libraries in uses.items() if inside(name, ["nem"])))
    assert own == {"torch", "numpy", "scipy", *OPTIONAL}
    assert (users("numba", "nem"), users("threadpoolctl", "nem")) == ({"nem.kernels"}, {"nem.directions"})
    assert users("mlflow") == {"pipeline.tracking", "pipeline.serving"}
    assert len(users("cv2")) == 1


def test_a_served_model_needs_what_its_requirements_say():
    """MLflow installs these beside the code; `pipeline.serving` is where a served model starts."""
    waiting, reached, needed = ["pipeline.serving"], set(), set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            own, libraries = imports(MODULES[name])
            waiting += [*own, *(name.rsplit(".", k)[0] for k in range(1, name.count(".") + 1))]
            needed |= libraries
    text = MODULES["pipeline.tracking"].read_text("utf-8")
    stated = ast.literal_eval("[" + text.split("pip_requirements=[torch,")[1].split("]")[0] + "]")
    assert needed - {"mlflow", "torch", *OPTIONAL} == set(stated)


def test_who_needs_no_pytorch_does_not_wait_for_it():
    """It takes seconds to import; stages that move or decode files or write sequences, and their workers, need none."""
    light = "nem, pipeline.params, pipeline.fx.acquire, pipeline.video.acquire, pipeline.own.split, stages.acquire"
    light += ", stages.frames, stages.clips, stages.windows, stages.sequences"
    code = f"import sys, {light}; print(*{{'torch', 'numba'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert all(getattr(nem, name) is not None for name in nem.__all__)
    assert not hasattr(nem, "nothing")


def test_the_theory_draws_nothing():
    for file in files("nem/theory"):
        for word in ("randn", "torch.rand", "bernoulli(", "manual_seed", "normal_("):
            assert word not in file.read_text("utf-8"), f"{file.name} draws"


def test_nothing_but_records_gives_a_file_its_final_name_and_so_every_file_appears_whole():
    """The others write parts of downloads, into a file that ``records`` has opened, and into temporary folders."""
    may = {f"pipeline.{name}" for name in ("common.records", "common.download", "common.sequences")}
    may |= {f"pipeline.video.{name}" for name in ("frames.codec", "acquire.archive", "acquire.features")}
    ways = re.compile(r"\.(write_text|write_bytes|write_table|save_file|tofile)\($|\bopen\(.*'[wax]b?'")
    for name in (name for name in MODULES if name.startswith(("pipeline.", "stages.")) and name not in may):
        for call in (node for node in ast.walk(tree(MODULES[name])) if isinstance(node, ast.Call)):
            told = ast.unparse(call.func) + "(" if "open" not in ast.unparse(call.func) else ast.unparse(call)
            assert told.startswith("records.") or not ways.search(told), f"{name}:{call.lineno}"


def test_no_result_can_depend_on_the_clock_or_on_time_stamps_of_files():
    """That no library puts the time into a file: equal bytes of runs at other times, everywhere in these tests."""
    clock = re.compile(
        r"time\.(time|time_ns|[a-z]*time|strftime)\b|from time|\.(now|today|utcnow)\(|(st_|get)[acm]time"
    )
    for name in (name for name in MODULES if not name.startswith("tools") and name != "pipeline.tracking"):
        assert not clock.search(MODULES[name].read_text("utf-8")), name


def test_only_tasks_say_what_tasks_there_are():
    for file in (file for name, file in MODULES.items() if not inside(name, NAMING)):
        for node in ast.walk(tree(file)):
            assert not (isinstance(node, ast.Constant) and node.value in NAMES), f"{file}:{node.lineno}"


def test_no_more_lines_than_agreed():
    lines = {str(f.relative_to(ROOT)): len(f.read_text("utf-8").splitlines()) for f in files(*HOUSES, "tests")}
    assert {name: count for name, count in lines.items() if count > LONG.get(name, FILE)} == {}
    for places, most in ROOMS.items():
        own = [name for name in lines if name.startswith(places)]
        assert 0 < sum(lines.pop(name) for name in own) <= most, places
    for name, grown in (pair for added in GREW.values() for pair in added.items()):
        lines[name] -= grown
    house = {"tests": sum(count for name, count in lines.items() if name.startswith("tests/"))}
    house["product"] = sum(lines.values()) - house["tests"]
    assert {side: count for side, count in house.items() if count > HOUSE[side]} == {}
    print(f"the house: {house}")


def test_no_function_with_more_parameters_than_agreed():
    for file in set(MODULES.values()) - {MODULES["nem.kernels"]}:
        for node in ast.walk(tree(file)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                spelled = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                names = [one.arg for one in spelled if one.arg not in ("self", "cls")]
                assert len(names) <= PARAMETERS, f"{file}:{node.lineno} {node.name}"
