"""The licences of all locked packages, as a table in docs/supply-chain.md: ``make licences``.

A package states its licence in its own metadata, so a row is made where the package is installed. The lock holds
packages for other platforms and Python versions too; their rows stay as they are, or are made from wheels that the
command line names (``pip download --no-deps NAME==VERSION``).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "all.txt"
PAGE = ROOT / "docs" / "supply-chain.md"
START, END = "<!-- licences:start -->\n", "<!-- licences:end -->\n"
HEAD = "| package | version | licence |\n| --- | --- | --- |\n"
MIT = "Permission is hereby granted, free of charge, to any person obtaining a copy"
UNKNOWN = "not stated in its metadata"


class LicencesError(ValueError):
    """The table and the lock do not fit together."""


def locked(text: str) -> dict[str, str]:
    """Return the versions of each locked package, joined where markers choose between several."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.MULTILINE):
        versions.setdefault(name, []).append(version)
    return {name: ", ".join(sorted(set(each), key=_by_number)) for name, each in sorted(versions.items())}


def _by_number(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def licence(found: importlib.metadata.Distribution) -> str:
    """Return what a package says of its licence: expression, short statement, classifiers, or its licence file."""
    about = found.metadata
    # get_all: the backport importlib_metadata, once imported by anybody, answers too, and raises for what is missing.
    stated = str((about.get_all("License-Expression") or about.get_all("License") or [""])[0])
    if stated and "\n" not in stated.strip() and len(stated) < 120:
        return stated.strip().replace("|", "or")
    every = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    named = sorted(each for each in every if each not in ("OSI Approved", "DFSG approved"))
    if named:
        return ", ".join(named)
    for file in found.files or []:
        if file.name.upper().startswith("LICEN") and MIT in " ".join(file.read_text().split()):
            return "MIT"
    return UNKNOWN


def rows(page: str) -> dict[str, tuple[str, str]]:
    """Return version and licence of each package in a page's table.

    Raises:
        LicencesError: the page has no table between its marks.
    """
    if START not in page or END not in page:
        raise LicencesError(f"expected the marks {START.strip()} and {END.strip()} in {PAGE.name}, found them not")
    body = page[page.index(START) : page.index(END)].replace(HEAD, "")
    return {name: (version, text) for name, version, text in re.findall(r"^\| (\S+) \| (.+?) \| (.+?) \|$", body, re.M)}


def table(lock: str, page: str, wheels: list[str]) -> dict[str, tuple[str, str]]:
    """Return the rows that the table should have.

    Args:
        lock: text of the lock.
        page: text of the page, whose rows stay where no locked version of a package is at hand.
        wheels: files or folders that hold further packages.

    Raises:
        LicencesError: a package's licence is neither at hand nor in the page.
    """
    at_hand = {
        re.sub(r"[-_.]+", "-", each.name).lower(): each
        for each in importlib.metadata.distributions(path=[*sys.path, *wheels])
    }
    old, made, missing = rows(page), {}, []
    for name, versions in locked(lock).items():
        found = at_hand.get(name)
        if found is not None and found.version in versions.split(", "):
            made[name] = (versions, licence(found))
        elif name in old:
            made[name] = (versions, old[name][1])
        else:
            missing.append(f"{name}=={versions}")
    if missing:
        raise LicencesError(
            f"expected the licence of {', '.join(missing)}, found neither the package nor its row; run "
            "`pip download --no-deps` for them and name the wheels: python -m tools.licences FILE …"
        )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Write the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheels", nargs="*", help="wheels of packages that are not installed")
    options = parser.parse_args(arguments)
    page = PAGE.read_text()
    try:
        made = table(LOCK.read_text(), page, options.wheels)
    except LicencesError as error:
        print(f"licences: {error}", file=sys.stderr)
        return 1
    lines = "".join(f"| {name} | {version} | {text} |\n" for name, (version, text) in made.items())
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    PAGE.write_text(before + HEAD + lines + after)
    print(f"licences: {len(made)} packages, {sum(text == UNKNOWN for _, text in made.values())} without a statement")
    return 0


if __name__ == "__main__":
    sys.exit(main())
