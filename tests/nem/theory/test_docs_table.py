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


HERE = "tests/nem/theory"


def rows():
    """Cells of the table of results: result, code, test, figure."""
    lines = [line for line in THEORY.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(text):
    return re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def is_test(name):
    """Whether a page's ``file::test``, ``test_file.py::test`` or ``test`` (of expected noise) exists."""
    file, _, test = name.partition("::") if "::" in name else ("test_expected.py", "", name)
    tree = ast.parse((ROOT / (file if "/" in file else f"{HERE}/{file}")).read_text("utf-8"))
    return test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def resolve(dotted):
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


def test_each_result_of_the_paper_has_a_section_and_a_row_that_names_code_tests_and_figures():
    text, houses = THEORY.read_text("utf-8"), [ROOT / "pipeline" / name for name in ("evaluation", "tasks")]
    sources = "".join(path.read_text("utf-8") for house in houses for path in house.glob("*.py"))
    for result, *named in rows():
        code, tests, figures = map(quoted, named)
        assert all(callable(resolve(name)) for name in code), result
        assert all("::" in name and is_test(name) for name in tests), result
        assert code, result
        assert tests, result
        assert all(f'"{name}' in sources for name in figures), "nothing draws it"
    for result in RESULTS:
        assert any(re.match(rf"{re.escape(result)}\b", row[0]) for row in rows()), result
        assert re.search(rf"^## {re.escape(result.partition('.')[0])}$", text, re.MULTILINE), result


@pytest.mark.parametrize("page", [THEORY, ERRATA], ids=lambda page: page.name)
def test_every_name_and_link_on_the_page_leads_somewhere(page):
    text = page.read_text("utf-8")
    tests = [name for name in quoted(text) if name.rpartition("::")[2].startswith("test_") and " " not in name]
    assert all(is_test(name) for name in tests if not name.endswith(".py")), [n for n in tests if not is_test(n)]
    code = [name for name in quoted(text) if name.startswith(("nem.", "pipeline."))]
    assert all(resolve(name) is not None for name in code)
    assert len(tests) + len(code) > 20
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        titles = re.findall(r"^#+ (.+)$", (page.parent / file).read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, target


def test_every_case_of_the_errata_is_tested_and_the_other_way_round():
    cases = re.findall(r"\[([\w.-]+)\](?!\()", ERRATA.read_text("utf-8"))
    assert set(cases) == {*PRINTED, *CLAIMS}
