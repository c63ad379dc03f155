"""Every example runs as README names it, and the notebook's committed outputs are those of its cells."""

import importlib
import json
import math
import re

import pytest

from examples import execute
from tests.conftest import ROOT

PAGE = (ROOT / "README.md").read_text("utf-8").partition("python -m examples.NAME")[2].partition("\n\n")[0]
NAMES = re.findall(r"`([a-z_ ]+)`", PAGE)[0].split()
NOTEBOOK = json.loads(execute.NOTEBOOK.read_text("utf-8"))


def found(name):
    """What the example's main returns, run from the root, where it leaves nothing."""
    before = {file.name for file in ROOT.glob("[!.]*")}
    value = importlib.import_module(f"examples.{name}").main()
    assert {file.name for file in ROOT.glob("[!.]*")} == before
    return value


def test_the_page_names_every_example():
    files = {file.stem for file in (ROOT / "examples").glob("*.py")} - {"__init__", "scratch", "execute"}
    assert sorted(files) == sorted(NAMES)


OWN = [name for name in NAMES if name.startswith("own_") and name != "own_noise"]
LATER = [pytest.mark.slow]


@pytest.mark.parametrize("name", [pytest.param(name, marks=LATER * (name != "own_sequences")) for name in OWN])
def test_own_data_give_numbers_of_every_condition(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    numbers = found(name)
    assert {"none"} < set(numbers)
    assert all(math.isfinite(value) for value in numbers.values())
    assert name != "own_sequences" or numbers["none"] < numbers["mean"], "it has learnt something"


def test_networks_of_ones_own_learn(monkeypatch):
    monkeypatch.chdir(ROOT)
    errors = found("plain_loop")
    assert max(errors.values()) < 0.1 < 0.5, "half the variance of a sine is 0.5"
    noises = found("own_noise")
    assert all(0 < share < 1 and math.isfinite(loss) for loss, share in noises.values())
    assert noises["gaussian"][0] < 0.3
    table = found("multi_label")
    assert table.metric.unique().tolist() == ["test_cross_entropy"]
    assert (table.test_accuracy > 0.75).all()
    assert table.repetitions.tolist() == [7] * 3


def test_the_tagger_sees_both_directions(monkeypatch):
    monkeypatch.chdir(ROOT)
    accuracy = found("tagger")
    assert min(accuracy.values()) > 0.9


def test_the_notebooks_outputs_are_those_of_its_cells(monkeypatch):
    """Numbers may differ between machines in their last digits; shapes and words do not."""
    monkeypatch.chdir(ROOT)
    names = {"__name__": "notebook"}
    cells = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    for count, cell in enumerate(cells, 1):
        now = execute.outputs(*execute.run("".join(cell["source"]), names), count)
        both = [[re.findall(r"[a-z_]{4,}", str(one.get("data", one).get("text/plain", one))) for one in out]
                for out in (now, cell["outputs"])]  # fmt: skip
        assert both[0] == both[1] != [], f"run python -m examples.execute: cell {count}"
        assert [set(one.get("data", ())) for one in now] == [set(one.get("data", ())) for one in cell["outputs"]]
