"""docs/theory.md and docs/errata.md name only what exists: functions, tests and figures."""

import ast
import importlib
import re

import pytest

from tests.conftest import ROOT

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
    _, code, tests, figures = row
    assert quoted(code)
    assert quoted(tests)
    for name in quoted(code):
        assert name.startswith(("nem.", "pipeline."))
        assert callable(resolve(name)), name
    for name in quoted(tests):
        file, _, test = name.partition("::")
        assert test in functions(ROOT / file), name
    houses = [ROOT / "pipeline" / name for name in ("evaluation", "tasks")]
    sources = "".join(path.read_text("utf-8") for house in houses for path in house.glob("*.py"))
    for name in quoted(figures):
        assert f'"{name}' in sources, f"nothing draws {name}"


def test_every_result_of_the_paper_has_a_row_and_a_section():
    text = THEORY.read_text(encoding="utf-8")
    for result in RESULTS:
        assert any(re.match(rf"{re.escape(result)}\b", row[0]) for row in rows()), result
        assert re.search(rf"^## {re.escape(result.partition('.')[0])}$", text, re.MULTILINE), result


@pytest.mark.parametrize("page", [THEORY, ERRATA], ids=lambda page: page.name)
def test_every_name_on_the_page_exists(page):
    text = page.read_text(encoding="utf-8")
    here = functions(ROOT / "tests/nem/theory/test_expected.py")
    checked = 0
    for name in quoted(text):
        file, colons, test = name.partition("::")
        if colons:
            assert test in functions(ROOT / (file if "/" in file else f"tests/nem/theory/{file}")), name
        elif name.startswith("test_"):
            assert name in here, name
        elif name.startswith(("nem.", "pipeline.")):
            resolve(name)
        else:
            continue
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("page", [THEORY, ERRATA], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        text = (page.parent / file).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, target


def test_every_misprint_put_to_the_test_is_listed_and_the_other_way_round():
    from tests.nem.theory.test_recursions import PRINTED

    assert set(re.findall(r"\[([BC]\.\d+)\]", ERRATA.read_text(encoding="utf-8"))) == set(PRINTED)
