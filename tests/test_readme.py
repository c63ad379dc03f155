"""The README's commands, Python and YAML work as written, and links of all pages lead somewhere."""

import re
import runpy
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pipeline import params
from tests.conftest import ROOT

TEXT = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_python_runs_as_it_stands(tmp_path):
    (block,) = blocks("python")
    subprocess.run([sys.executable, "-c", block], check=True, cwd=ROOT, timeout=120)


def test_parameters_are_parameters():
    for block in blocks("yaml"):
        content = params.Params().model_dump()
        for task, sections in YAML(typ="safe").load(block).items():
            for section, values in sections.items():
                content[task][section] |= values
        assert params.validate(content).fx.acquire.source == "csv"


def test_targets_and_profiles_exist():
    targets = set(re.findall(r"^([a-z-]+):.*?##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line.split("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    used = [words for words in lines if words[:1] == ["make"]]
    assert len(used) >= 7
    for _, target, *variables in used:
        assert target in targets
        for value in (v.removeprefix("PROFILE=") for v in variables if v.startswith("PROFILE=")):
            assert (ROOT / f"profiles/{value}.yaml").is_file()


def test_the_page_of_parameters_is_that_of_the_schema():
    page = runpy.run_path(str(ROOT / "docs/schema.py"))["page"]()
    assert (ROOT / "docs/parameters.md").read_text("utf-8") == page, "run `make facts`"


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 150
    tables = re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)
    assert all(len(table.splitlines()) - 2 <= 15 for table in tables)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target
