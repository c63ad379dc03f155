"""Known vulnerabilities of all locked packages, but for those that ``requirements/advisories.yaml`` accepts."""

import datetime
import re
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
KEYS = {"package": str, "ids": list, "what": str, "why": str, "review": datetime.date}


def accepted(text: str, lock: str, today: datetime.date) -> list[str]:
    """Return the names in a YAML list of accepted advisories; a ValueError says which entry must be looked at."""
    entries = YAML(typ="safe").load(text) or []
    for entry in entries:
        if {key: type(value) for key, value in entry.items()} != KEYS or not all(entry.values()):
            raise ValueError(f"expected {', '.join(KEYS)} of each accepted advisory, found {entry}; complete it")
        if not re.search(rf"^{re.escape(entry['package'])}==", lock, re.MULTILINE):
            raise ValueError(f"expected a locked package, found {entry['package']}; drop its entry")
        if entry["review"] < today:
            due = f"{entry['ids'][0]} of {entry['package']} overdue since {entry['review']}"
            raise ValueError(f"expected reviews in time, found {due}; see whether a release mends it")
    return [name for entry in entries for name in entry["ids"]]


def main(arguments: list[str]) -> int:
    """Run pip-audit with the accepted advisories and further options of its own; return the exit status."""
    locks = [REQUIREMENTS / name for name in ("all.txt", "cluster.txt")]
    try:
        text = "".join(lock.read_text() for lock in locks)
        names = accepted((REQUIREMENTS / "advisories.yaml").read_text(), text, datetime.date.today())
    except ValueError as error:
        sys.exit(f"audit: {error} in requirements/advisories.yaml")
    command = [sys.executable, "-m", "pip_audit", "--strict", "--disable-pip", "--require-hashes"]
    command += [option for lock in locks for option in ("-r", str(lock))]
    ignored = [option for name in names for option in ("--ignore-vuln", name)]
    return subprocess.run([*command, *ignored, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
