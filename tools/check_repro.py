"""Same commit, same parameters, same bytes: checked on two clones, ``make check-repro``.

The present commit is cloned twice. The demo pipeline runs in both, without a shared cache, the second time under
another folder name, locale, time zone, ``PYTHONHASHSEED`` and number of workers. Then every output file is compared.

* ``QUICK=1`` (``--quick``): both halves, with few days, videos, pictures, epochs and repetitions.
* ``FRESH=1`` (``--fresh``): a new virtual environment in each clone, from the hash-locked requirements.
* ``AGAINST_LOCK=1`` (``--against-lock``): one clone, compared with the committed ``dvc.lock``: exactly where
  docs/reproducibility.md promises bytes across machines, else the committed metrics within stated tolerances.
  ``--here`` compares the run that this folder already holds, without another one.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from ruamel.yaml import YAML
from safetensors.numpy import load_file

QUICK: dict[str, Any] = {
    "tasks": ["fx", "video"],
    "fx": {"acquire": {"synthetic_days": 400}, "windows": {"train_end": 320}},
    # Few pictures, since the network that looks at them keeps its size.
    "video": {
        "acquire": {"synthetic_groups": 2, "synthetic_clips": 1},
        "frames": {"rate": 0.5, "per_clip": 2},
        "features": {"batch_size": 4},
    },
    "training": {"repetitions": 2},
    "train": {
        task: {cell: {"hidden": 8, "epochs": 4, "max_epochs": 6} for cell in ("lstm", "gru")}
        for task in ("fx", "video")
    },
    "evaluate": {"bootstrap": 500},
}
"""What the small form lays over the demo profile, in both clones: all stages, tiny sizes."""

FIRST = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "NEM_WORKERS": "1"}
SECOND = {"TZ": "IST-5:30", "PYTHONHASHSEED": "4711", "NEM_WORKERS": "2"}
"""Surroundings of the two runs; the second also takes a foreign locale."""

EXACT_EVERYWHERE = ("data/raw/fx", "data/fx")
"""Outputs whose bytes are promised on every x86-64 machine; the others, on one machine type."""

RELATIVE = {
    "fx baselines": 1e-9, "fx test_mse": 1e-3, "fx train_mse": 1e-3,
    "clips test_cross_entropy": 0.05, "clips train_cross_entropy": 0.05,
}  # fmt: skip
ABSOLUTE = {
    "clips baselines": 0.05, "clips test_accuracy": 0.05, "clips train_accuracy": 0.05, "clips calibration_error": 0.05,
}  # fmt: skip
"""Largest differences of metrics across machine types (docs/reproducibility.md): of every condition for days, of the
average over all conditions for clips, since a single one of few networks on few clips goes its own way."""

KINDS = (
    ("dvc.lock", "dvc.lock"),
    ("acquired data", "data/raw"),
    ("frames", "data/frames"),
    ("features", "data/features"),
    ("windows", "data/fx"),
    ("training runs", "data/runs"),
    ("tables", "data/results/tables"),
    ("figures", "data/results/figures"),
    ("plot data", "data/results/plots"),
    ("metrics", "data/results/metrics.json"),
    ("report", "data/results/report.html"),
)


class CheckError(RuntimeError):
    """The check itself could not be done."""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command; return what it printed.

    Raises:
        CheckError: it failed; the message holds the end of its output.
    """
    found = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise CheckError(
            f"expected `{' '.join(command)}` to succeed, found exit status {found.returncode}:\n"
            + (found.stdout + found.stderr)[-3000:]
        )
    return found.stdout


def foreign_locale(folder: Path) -> dict[str, str]:
    """Return settings of a locale with another decimal sign and other letter cases, made in ``folder`` if need be.

    Where the machine has none and cannot make one, ``C`` stands in, under which Python takes UTF-8; the caller prints
    the settings, so that nobody takes that for more than it is.
    """
    try:
        listed = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
        for wanted in ("tr_TR", "de_DE", "fr_FR"):
            for name in listed:
                if name.startswith(wanted) and "utf8" in name.lower().replace("-", ""):
                    return {"LC_ALL": name}
        name = "tr_TR.UTF-8"
        command = ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / name)]
        folder.mkdir(parents=True, exist_ok=True)
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return {"LC_ALL": name, "LOCPATH": str(folder)}
    except OSError:  # neither `locale` nor `localedef`: not a GNU system
        pass
    return {"LC_ALL": "C"}


def surroundings(clone: Path, own: dict[str, str], binaries: Path) -> dict[str, str]:
    """Return the environment of one run: the present one without project settings, with nothing shared."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEM_", "MLFLOW_", "DVC_", "GIT_", "LC_"))}
    for name in ("PYTHONPATH", "MAKEFLAGS", "MFLAGS", "VIRTUAL_ENV", "LANG", "LANGUAGE", "LOCPATH"):
        kept.pop(name, None)
    beside = clone.parent / "dvc"
    shared = {
        "PATH": f"{binaries}{os.pathsep}{kept.get('PATH', os.defpath)}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_GLOBAL_CONFIG_DIR": str(beside / "global"),
        "DVC_SYSTEM_CONFIG_DIR": str(beside / "system"),
        "DVC_SITE_CACHE_DIR": str(beside / "site"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return kept | shared | own


def clone_and_run(root: Path, clone: Path, own: dict[str, str], quick: bool, fresh: bool) -> Path:
    """Clone the commit of ``root`` to ``clone``, run the demo pipeline there, and return ``clone``."""
    clone.parent.mkdir(parents=True)
    run(["git", "clone", "--quiet", "--no-hardlinks", str(root), str(clone)], clone.parent, dict(os.environ))
    binaries = Path(sys.executable).parent
    environment = surroundings(clone, own, binaries)
    if fresh:
        run(["make", "setup", f"PYTHON={sys.executable}"], clone, environment)
        binaries = clone / ".venv" / "bin"
        environment = surroundings(clone, own, binaries)
    if quick:
        lay_over(clone / "profiles" / "demo.yaml", QUICK)
    # A committed lock would carry over entries that this run did not make.
    (clone / "dvc.lock").unlink(missing_ok=True)
    run([str(binaries / "python"), "-m", "pipeline.params", "compose", "demo", "--force"], clone, environment)
    run([str(binaries / "python"), "-m", "dvc", "repro"], clone, environment)
    return clone


def lay_over(profile: Path, changes: dict[str, Any]) -> None:
    """Merge ``changes`` into a profile."""
    yaml = YAML(typ="safe", pure=True)

    def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
        both = {
            k: merge(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v
            for k, v in over.items()
        }
        return {**base, **both}

    merged = merge(yaml.load(profile.read_text()) or {}, changes)
    with profile.open("w") as file:
        yaml.dump(merged, file)


def outputs(clone: Path) -> dict[str, str]:
    """Return the SHA-256 of dvc.lock and of every output file, by path."""
    files = [clone / "dvc.lock", *sorted((clone / "data").rglob("*"))]
    return {
        str(f.relative_to(clone)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in files
        if f.is_file() and f.name != ".gitignore" and f.suffix != ".tmp"
    }


def first_difference(a: Path, b: Path) -> str:
    """Say where two files first differ, in the terms of their format."""
    if not (a.is_file() and b.is_file()):
        return f"only the {'first' if a.is_file() else 'second'} run has it"
    if a.suffix == ".parquet":
        return _tables(a, b)
    if a.suffix == ".safetensors":
        return _weights(a, b)
    left, right = a.read_bytes(), b.read_bytes()
    at = next((i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y), min(len(left), len(right)))
    if a.suffix in (".json", ".csv", ".html", ".lock", ".yaml"):
        line = left[:at].count(b"\n")
        lines = [(side.split(b"\n")[line : line + 1] or [b""])[0] for side in (left, right)]
        column = at - (left[:at].rfind(b"\n") + 1)
        shown = [each[max(0, column - 40) : column + 40].decode("utf-8", "replace") for each in lines]
        return f"line {line + 1}: {shown[0]!r} | {shown[1]!r}"
    return f"byte {at} of {len(left)} | {len(right)}"


def _tables(a: Path, b: Path) -> str:
    left, right = pq.read_table(a), pq.read_table(b)
    if not left.schema.equals(right.schema, check_metadata=True):
        return f"schemas or metadata: {left.schema!s:.200} | {right.schema!s:.200}"
    if len(left) != len(right):
        return f"{len(left)} rows | {len(right)} rows"
    for name in left.column_names:
        for row, (x, y) in enumerate(zip(left[name].to_pylist(), right[name].to_pylist(), strict=True)):
            if x != y and not (isinstance(x, float) and isinstance(y, float) and math.isnan(x) and math.isnan(y)):
                return f"column {name}, row {row}: {x!r:.60} | {y!r:.60}"
    return "equal values, other encoding (another pyarrow?)"


def _weights(a: Path, b: Path) -> str:
    left, right = load_file(a), load_file(b)
    if left.keys() != right.keys():
        return f"tensors {sorted(left)} | {sorted(right)}"
    for name in sorted(left):
        if left[name].shape != right[name].shape:
            return f"tensor {name}: shape {left[name].shape} | {right[name].shape}"
        unequal = np.argwhere(left[name] != right[name])
        if len(unequal):
            at = tuple(int(i) for i in unequal[0])
            share = f"{len(unequal)} of {left[name].size} differ"
            return f"tensor {name}{list(at)}: {left[name][at]!r} | {right[name][at]!r}; {share}"
    return "equal tensors, other metadata"


def compare(first: Path, second: Path) -> int:
    """Print a table of what is identical; return how many files differ."""
    left, right = outputs(first), outputs(second)
    names = sorted(left.keys() | right.keys())
    differing = [name for name in names if left.get(name) != right.get(name)]
    print(f"\n{'':<16}{'files':>6}{'identical':>11}{'bytes':>12}  SHA-256 over all")
    counted = 0
    for kind, place in KINDS:
        mine = [name for name in names if name == place or name.startswith(place + "/")]
        counted += len(mine)
        if not mine:
            continue
        size = sum((first / name).stat().st_size for name in mine if name in left)
        whole = hashlib.sha256("".join(f"{name}\0{left.get(name)}\0" for name in mine).encode()).hexdigest()[:16]
        same = sum(name not in differing for name in mine)
        print(f"{kind:<16}{len(mine):>6}{same:>11}{size:>12}  {whole if same == len(mine) else 'DIFFERENT'}")
    if counted != len(names):
        raise CheckError("expected every output under a known kind, found others; add them to KINDS in this tool")
    if not any(name.startswith("data/results/") for name in names):
        raise CheckError("expected results from both runs, found none: nothing was compared")
    for name in differing:
        print(f"  {name}: {first_difference(first / name, second / name)}")
    print(f"\n{len(differing)} of {len(names)} files differ")
    return len(differing)


def leaves(content: object, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every value of nested mappings and lists with its place."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from leaves(value, (*place, str(key)))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from leaves(value, (*place, str(number)))
    else:
        yield place, content


def promised(metrics: dict[str, Any]) -> dict[tuple[str, str], list[object]]:
    """Return the numbers that are promised across machines, by kind (see :data:`RELATIVE`) and name."""
    found: dict[tuple[str, str], list[object]] = {}
    for place, value in leaves(metrics):
        days = "fx" in place[:2]
        if place[0] == "baselines":
            found[f"{'fx' if days else 'clips'} baselines", ".".join(place)] = [value]
        elif place[-1] == "mean" and place[-2].startswith(("test_", "train_", "calibration_")):
            task, cell, condition, name = place[:4]
            among = (task, cell, condition, name) if days else (task, cell, name)
            found.setdefault((f"{'fx' if days else 'clips'} {name}", ".".join(among)), []).append(value)
    return found


def against_lock(root: Path, made: Path) -> int:
    """Compare a run with the committed lock and metrics; return how many promises are broken.

    Args:
        root: the repository whose commit holds lock and metrics.
        made: the folder that holds the run: another clone, or ``root``.
    """
    yaml = YAML(typ="safe", pure=True)
    committed = {name: _git_show(root, name) for name in ("dvc.lock", "data/results/metrics.json")}
    locks = [yaml.load(text) for text in (committed["dvc.lock"], (made / "dvc.lock").read_text())]
    return (
        _stale(*locks)
        + _outputs(*locks)
        + _metrics(
            json.loads(committed["data/results/metrics.json"]),
            json.loads((made / "data/results/metrics.json").read_text()),
        )
    )


def _stale(committed: dict[str, Any], made: dict[str, Any]) -> int:
    """Count the stages whose committed commands, code or parameters are not those of the commit."""
    broken = 0
    for name in sorted(committed["stages"].keys() | made["stages"].keys()):
        old, new = (_inputs(lock["stages"].get(name, {})) for lock in (committed, made))
        changed = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if changed:
            broken += 1
            print(f"stage {name}: the committed dvc.lock is not of this commit: {', '.join(changed)}; commit a new one")
    return broken


def _inputs(stage: dict[str, Any]) -> dict[str, object]:
    """Return what a stage's lock says of files that git holds, of parameters and of the command."""
    code = {dep["path"]: dep["md5"] for dep in stage.get("deps", []) if not dep["path"].startswith("data/")}
    return {**code, **stage.get("params", {}), "cmd": stage.get("cmd")}


def _outputs(committed: dict[str, Any], made: dict[str, Any]) -> int:
    """Print whether each output is the same; count the broken promises."""
    hashes = [
        {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", [])}
        for lock in (committed, made)
    ]
    broken = 0
    print(f"\n{'output':<34}{'promise':<28}found")
    for name in sorted(hashes[0].keys() | hashes[1].keys()):
        same, exact = hashes[0].get(name) == hashes[1].get(name), name in EXACT_EVERYWHERE
        broken += exact and not same
        promise = "exact on every machine" if exact else "exact on one machine type"
        print(f"{name:<34}{promise:<28}{'identical' if same else 'DIFFERENT' if exact else 'different, see metrics'}")
    return broken


def _metrics(committed: dict[str, Any], made: dict[str, Any]) -> int:
    """Print how far the promised metrics are off; count those that are too far, and those that only one side has."""
    broken = 0
    sides = [dict(leaves(each)).keys() for each in (committed, made)]
    for place in sorted(sides[0] ^ sides[1]):
        broken += 1
        print(f"  {'.'.join(place)}: only the {'committed' if place in sides[0] else 'new'} metrics have it")
    old, new = promised(committed), promised(made)
    worst: dict[str, list[float]] = {}
    for kind, name in sorted(old.keys() & new.keys()):
        relative = kind in RELATIVE
        allowed = (RELATIVE if relative else ABSOLUTE)[kind]
        x, y = _average(old[kind, name]), _average(new[kind, name])
        off = _apart(x, y, relative=relative)
        worst.setdefault(kind, []).append(off)
        if off > allowed:
            broken += 1
            print(f"  {name}: {x!r} | {y!r}, off by {off:.2g}, allowed {allowed:g}")
    for kind, offs in worst.items():
        limit = f"{RELATIVE[kind]:g} relative" if kind in RELATIVE else f"{ABSOLUTE[kind]:g} absolute"
        print(f"metrics: {kind}, {limit}: {len(offs)} compared, largest difference {max(offs):.2g}")
    print(f"\n{broken} broken promise(s) in metrics")
    return broken


def _average(values: list[object]) -> object:
    """Return the mean of numbers; whatever else there is, if not all of them are."""
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if len(numbers) == len(values) else values


def _apart(x: object, y: object, *, relative: bool) -> float:
    """Return how far two metrics are apart: infinitely, if only one of them is a number."""
    if not isinstance(x, int | float) or not isinstance(y, int | float):
        return 0.0 if x == y else math.inf
    return abs(x - y) / max(abs(x), abs(y), 1e-300) if relative else abs(x - y)


def _git_show(root: Path, name: str) -> str:
    try:
        return run(["git", "show", f"HEAD:{name}"], root, dict(os.environ))
    except CheckError as error:
        raise CheckError(f"expected {name} of the demo profile in the commit, found none; commit it first") from error


def main(arguments: list[str] | None = None) -> int:
    """Run the check; return 0 if everything is as promised, 1 if not, 2 if it could not be done."""
    parser = argparse.ArgumentParser(description="Run the demo pipeline in two clones and compare every byte.")
    parser.add_argument("--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"))
    parser.add_argument("--fresh", action="store_true", default=os.environ.get("FRESH", "") not in ("", "0"))
    parser.add_argument(
        "--against-lock", action="store_true", default=os.environ.get("AGAINST_LOCK", "") not in ("", "0")
    )
    parser.add_argument("--here", action="store_true", help="with --against-lock: compare the run in this folder")
    options = parser.parse_args(arguments)
    if options.here and not options.against_lock:
        parser.error("expected --against-lock with --here: one run is compared with the commit")
    if options.quick and options.against_lock:
        parser.error("expected --quick or --against-lock: the committed lock is that of the whole demo profile")
    root = Path(__file__).resolve().parent.parent
    try:
        if options.here:
            return 1 if against_lock(root, root) else 0
        changed = run(["git", "status", "--porcelain", "--untracked-files=no"], root, dict(os.environ))
        if changed.strip():
            print("check-repro: uncommitted changes are not checked, only the commit is")
        with tempfile.TemporaryDirectory(prefix="check-repro-") as name:
            one, two = Path(name, "first", "project"), Path(name, "second", "quite another náme")
            second = {**SECOND, **foreign_locale(Path(name, "locales"))}
            form = "small form" if options.quick else "demo profile"
            if options.against_lock:
                print(f"check-repro: {form}, a fresh run against the committed dvc.lock", flush=True)
                broken = against_lock(root, clone_and_run(root, one, FIRST, False, options.fresh))
            else:
                print(f"check-repro: {form} in two clones\n  first:  {FIRST}\n  second: {second}", flush=True)
                with ThreadPoolExecutor(2 if options.quick else 1) as pool:
                    made = [
                        pool.submit(clone_and_run, root, clone, own, options.quick, options.fresh)
                        for clone, own in ((one, FIRST), (two, second))
                    ]
                    broken = compare(*(each.result() for each in made))
    except CheckError as error:
        print(f"check-repro: {error}", file=sys.stderr)
        return 2
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
