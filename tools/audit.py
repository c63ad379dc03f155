"""Known vulnerabilities of all locked packages, less those that were looked at: ``make audit``.

pip-audit asks an advisory database about every version in the lock. What it finds fails the audit, unless
``requirements/advisories.yaml`` accepts it with a reason and a day on which to look again.
"""

from __future__ import annotations

import datetime
import subprocess
import sys

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tools.licences import LOCK, locked

ACCEPTED = LOCK.with_name("advisories.yaml")


class AuditError(ValueError):
    """An accepted advisory does not fit the lock, or is due for review."""


class Advisory(BaseModel):
    """One accepted advisory: its package, all its names, what it says, why it does not matter here, and until when."""

    model_config = ConfigDict(extra="forbid")

    package: str = Field(min_length=1)
    ids: list[str] = Field(min_length=1)
    what: str = Field(min_length=20)
    why: str = Field(min_length=20)
    review: datetime.date


def accepted(text: str, lock: str) -> list[Advisory]:
    """Return the accepted advisories.

    Args:
        text: YAML list of advisories.
        lock: text of the lock.

    Raises:
        AuditError: the text is no such list, or names a package that is not locked.
    """
    try:
        found = TypeAdapter(list[Advisory]).validate_python(YAML(typ="safe").load(text) or [])
    except (YAMLError, ValidationError) as error:
        raise AuditError(f"expected a list of advisories in {ACCEPTED.name}, found: {error}") from error
    gone = sorted({each.package for each in found} - locked(lock).keys())
    if gone:
        raise AuditError(f"expected packages of the lock in {ACCEPTED.name}, found {', '.join(gone)}; drop the entries")
    return found


def current(found: list[Advisory], today: datetime.date) -> list[Advisory]:
    """Return the advisories given, if none is due for review.

    Raises:
        AuditError: at least one is due.
    """
    due = [f"{each.ids[0]} of {each.package} (since {each.review})" for each in found if each.review < today]
    if due:
        raise AuditError(
            f"expected reviews in time, found {', '.join(due)} overdue; see whether a release mends it, then upgrade "
            f"and drop the entry, or set a later day, in {ACCEPTED.name}"
        )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run pip-audit with the accepted advisories and any further options of its own; return the exit status."""
    try:
        passed = current(accepted(ACCEPTED.read_text(), LOCK.read_text()), datetime.date.today())
    except AuditError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pip_audit", "--strict", "--disable-pip", "--require-hashes", "-r", str(LOCK)]
    command += [option for each in passed for name in each.ids for option in ("--ignore-vuln", name)]
    return subprocess.run([*command, *(sys.argv[1:] if arguments is None else arguments)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
