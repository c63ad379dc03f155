"""docs/theory.md and docs/errata.md name only what exists: functions, tests and figures."""

import ast
import importlib
import re

import pytest

from tests.conftest import ROOT
from tests.nem.theory.test_errata import CLAIMS
from tests.nem.theory.test_recursions import PRINTED

THEORY, ERRATA = (ROOT / "docs" / name for name in ("theory.md", "errata.md"))
RESULTS = (
    [f"Theorem {n}" for n in range(1, 6)]
    + [f"Corollary {n}" for n in range(1, 5)]
    + ["Algorithm 1", "Appendix B.1", "Appendix B.2", "Appendix C.1", "Appendix C.2"]
)


def rows():
    """Cells of the table of results: result, code, test, figure."""
    lines = [line for line in THEORY.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text):
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def functions(path):
    """Names of the functions of a Python file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def resolve(dotted):
    """Import a module, or an object of one."""
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_each_result_names_code_tests_and_figures_that_exist(row):
    _, code, tests, figures = map(quoted, row)
    assert code
    assert all(callable(resolve(name)) for name in code)
    assert tests
    for name in tests:
        file, _, test = name.partition("::")
        assert test in functions(ROOT / file), name
    houses = [ROOT / "pipeline" / name for name in ("evaluation", "tasks")]
    sources = "".join(path.read_text("utf-8") for house in houses for path in house.glob("*.py"))
    assert all(f'"{name}' in sources for name in figures), "nothing draws it"


def test_every_result_of_the_paper_has_a_row_and_a_section():
    text = THEORY.read_text("utf-8")
    for result in RESULTS:
        assert any(re.match(rf"{re.escape(result)}\b", row[0]) for row in rows()), result
        assert re.search(rf"^## {re.escape(result.partition('.')[0])}$", text, re.MULTILINE), result


@pytest.mark.parametrize("page", [THEORY, ERRATA], ids=lambda page: page.name)
def test_every_name_and_link_on_the_page_leads_somewhere(page):
    text, here, checked = page.read_text("utf-8"), "tests/nem/theory", 0
    for name in quoted(text):
        file, _, test = name.partition("::") if "::" in name else (f"{here}/test_expected.py", "", name)
        if test.startswith("test_"):
            assert test in functions(ROOT / (file if "/" in file else f"{here}/{file}")), name
        elif name.startswith(("nem.", "pipeline.")):
            resolve(name)
        else:
            continue
        checked += 1
    assert checked > 20
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        titles = re.findall(r"^#+ (.+)$", (page.parent / file).read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, target


def test_every_case_of_the_errata_is_tested_and_the_other_way_round():
    cases = re.findall(r"\[([\w.-]+)\](?!\()", ERRATA.read_text("utf-8"))
    assert set(cases) == {*PRINTED, *CLAIMS}
