"""Same commit, same parameters, same bytes: checked on two clones, ``make check-repro`` (docs/reproducibility.md).

``QUICK=1`` runs all stages with tiny sizes, ``FRESH=1`` in new virtual environments. ``AGAINST_LOCK=1`` compares one
run with the committed ``dvc.lock`` and metrics; ``--here`` takes the run that this folder already holds.
"""

import argparse
import hashlib
import itertools
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
import pandas as pd
import pyarrow.parquet as pq
from ruamel.yaml import YAML
from safetensors.numpy import load_file

SMALL = {"hidden": 8, "epochs": 4, "max_epochs": 6}
# The small form: the demo profile, in both clones, with these instead.
QUICK = {
    "fx": {"acquire": {"synthetic_days": 400}, "windows": {"train_end": 320}},
    # Few pictures, since the network that looks at them keeps its size.
    "video": {"acquire": {"synthetic_groups": 2, "synthetic_clips": 1}, "frames": {"rate": 0.5, "per_clip": 2}},
    "training": {"repetitions": 2}, "train": {"fx": SMALL, "video": SMALL}, "evaluate": {"bootstrap": 500},
}  # fmt: skip
# Surroundings of the two runs; the second also takes a foreign locale.
FIRST = {"LC_ALL": "C.UTF-8", "TZ": "UTC", "PYTHONHASHSEED": "0", "NEM_WORKERS": "1"}
SECOND = {"TZ": "IST-5:30", "PYTHONHASHSEED": "4711", "NEM_WORKERS": "2"}
NOT_SHARED = ("PYTHONPATH", "MAKEFLAGS", "MFLAGS", "VIRTUAL_ENV", "LANG", "LANGUAGE", "LOCPATH")
EXACT_EVERYWHERE = ("data/raw/fx", "data/sequences/fx")  # on every x86-64 machine; the others, on one machine type
# Task and metric → largest difference across machine types, and whether it is relative: of every condition for days,
# of the average over all conditions for clips, since a single one of few networks on few clips goes its own way. In
# conditions with a test, a last bit may decide a draw the other way.
TOLERANCES: dict[tuple[str, str], tuple[float, bool]] = {
    ("fx", "baselines"): (1e-9, True),
    **{("fx", name): (1e-3, True) for name in ("test_mse", "train_mse")},
    **{("fx, tested", name): (0.05, True) for name in ("test_mse", "train_mse")},
    ("video", "test_cross_entropy"): (0.05, True), ("video", "train_cross_entropy"): (0.05, True),
    **{("video", name): (0.05, False) for name in ("baselines", "test_accuracy", "train_accuracy")},
    ("video", "calibration_error"): (0.05, False),
}  # fmt: skip


class CheckError(RuntimeError):
    """The check itself could not be done."""


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command; return what it printed, or raise a CheckError that holds the end of it."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        told = (done.stdout + done.stderr)[-3000:]
        raise CheckError(f"expected `{' '.join(command)}` to succeed, found exit status {done.returncode}:\n{told}")
    return done.stdout


def foreign_locale(folder: Path) -> dict[str, str]:
    """Return settings of a locale with another decimal sign and letter cases, made in ``folder``; else ``C``."""
    name = "tr_TR.UTF-8"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        run(["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / name)], folder)
    except (OSError, CheckError):  # no GNU system, or one without the sources of locales
        return {"LC_ALL": "C"}
    return {"LC_ALL": name, "LOCPATH": str(folder)}


def surroundings(clone: Path, own: dict[str, str], binaries: Path) -> dict[str, str]:
    """Return the environment of one run: the present one without project settings, with nothing shared."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NEM_", "MLFLOW_", "DVC_", "GIT_", "LC_"))}
    clean = {k: v for k, v in inherited.items() if k not in NOT_SHARED}
    path = {"PATH": f"{binaries}{os.pathsep}{clean.get('PATH', os.defpath)}", "DVC_NO_ANALYTICS": "1"}
    names = {"DVC_GLOBAL_CONFIG_DIR": "global", "DVC_SYSTEM_CONFIG_DIR": "system", "DVC_SITE_CACHE_DIR": "site"}
    return clean | path | {k: str(clone.parent / "dvc" / v) for k, v in names.items()} | own


def clone_and_run(root: Path, clone: Path, own: dict[str, str], quick: bool, fresh: bool) -> Path:
    """Clone the commit of ``root`` to ``clone``, run the demo pipeline there, and return ``clone``."""
    clone.parent.mkdir(parents=True)
    run(["git", "clone", "--quiet", "--no-hardlinks", str(root), str(clone)], clone.parent)
    binaries = Path(sys.executable).parent
    if fresh:
        run(["make", "setup", f"PYTHON={sys.executable}"], clone, surroundings(clone, own, binaries))
        binaries = clone / ".venv" / "bin"
    if quick:
        (clone / "profiles" / "demo.yaml").write_text(json.dumps(QUICK))  # JSON is YAML
    # A committed lock would carry over entries that this run did not make.
    (clone / "dvc.lock").unlink(missing_ok=True)
    for command in (["pipeline.params", "compose", "demo", "--force"], ["dvc", "repro"]):
        run([str(binaries / "python"), "-m", *command], clone, surroundings(clone, own, binaries))
    return clone


def outputs(clone: Path) -> dict[str, str]:
    """Return the SHA-256 of dvc.lock and of every output file, by path."""
    files = [clone / "dvc.lock", *sorted((clone / "data").rglob("*"))]
    files = [file for file in files if file.is_file() and file.name != ".gitignore" and file.suffix != ".tmp"]
    return {str(file.relative_to(clone)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def told(file: Path) -> Iterator[str]:
    """Yield a file's content in the terms of its format, a line each."""
    if file.suffix == ".parquet":
        for number, row in enumerate(pq.read_table(file).to_pylist()):
            yield from (f"column {name}, row {number}: {value!r}" for name, value in row.items())
    elif file.suffix == ".safetensors":
        for name, tensor in sorted(load_file(file).items()):
            yield from (f"tensor {name}{list(at)}: {value!s}" for at, value in np.ndenumerate(tensor))
    else:
        lines = file.read_bytes().decode("utf-8", "backslashreplace").split("\n")
        yield from (f"line {number}: {line}" for number, line in enumerate(lines, 1))


def first_difference(a: Path, b: Path) -> str:
    """Say where two files first differ."""
    if not (a.is_file() and b.is_file()):
        return f"only the {'first' if a.is_file() else 'second'} run has it"
    for left, right in itertools.zip_longest(told(a), told(b), fillvalue="end"):
        if left != right:
            return f"{left:.200} | {right:.200}"
    return "equal values, other encoding (another version of a library?)"


def compare(first: Path, second: Path) -> int:
    """Print a table of what is identical; return how many files differ."""
    both = pd.DataFrame({"first": outputs(first), "second": outputs(second)})
    if not any(both.index.str.startswith("data/results/")):
        raise CheckError("expected results from both runs, found none: nothing was compared")
    same = both["first"] == both["second"]
    table = same.groupby(both.index.str.split("/").str[:3].str.join("/")).agg(files="size", identical="sum")
    print(table.assign(verdict=np.where(table.files == table.identical, "", "DIFFERENT")).to_string())
    for name in both.index[~same]:
        print(f"  {name}: {first_difference(first / name, second / name)}")
    print(f"\n{(~same).sum()} of {len(both)} files differ")
    return int((~same).sum())


def flat(metrics: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """Return every value of nested mappings with its place."""
    return {tuple(place.split(".")): value for place, value in pd.json_normalize(metrics).loc[0].to_dict().items()}


def promised(metrics: dict[str, Any]) -> dict[tuple[tuple[str, str], str], list[object]]:
    """Return the numbers that are promised across machines, by tolerance (:data:`TOLERANCES`) and name."""
    numbers: dict[tuple[tuple[str, str], str], list[object]] = {}
    for place, value in flat(metrics).items():
        task = place[place[0] == "baselines"].partition("_")[0]
        if place[0] == "baselines":
            numbers[(task, "baselines"), ".".join(place)] = [value]
        elif place[-1] == "mean" and (task, place[3]) in TOLERANCES:
            among = place[:4] if task == "fx" else (*place[:2], place[3])
            task += ", tested" if task == "fx" and not place[2].startswith(("none", "blind")) else ""
            numbers.setdefault(((task, place[3]), ".".join(among)), []).append(value)
    return numbers


def against_lock(root: Path, fresh: Path) -> int:
    """Compare the run that ``fresh`` holds with lock and metrics of ``root``'s commit; return the broken promises."""
    names = ("dvc.lock", "data/results/metrics.json")
    texts = [(run(["git", "show", f"HEAD:{name}"], root), (fresh / name).read_text()) for name in names]
    old, new = (YAML(typ="safe", pure=True).load(text)["stages"] for text in texts[0])
    faults = []
    for name in sorted(old.keys() | new.keys()):
        (a, outs), (b, others) = _of_stage(old.get(name, {})), _of_stage(new.get(name, {}))
        changed = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
        if changed:
            faults.append(f"stage {name}: the committed dvc.lock is not of this commit: {', '.join(changed)}")
        for path in sorted(outs.keys() | others.keys()):
            same, exact = outs.get(path) == others.get(path), path in EXACT_EVERYWHERE
            print(f"{path:<34}{'identical' if same else 'DIFFERENT' if exact else 'different, see metrics'}")
            faults += [] if same or not exact else [f"{path}: other bytes, promised on every machine"]
    committed, present = (json.loads(text) for text in texts[1])
    one_sided = sorted(flat(committed).keys() ^ flat(present).keys())
    faults += [f"{'.'.join(place)}: only one of both metrics has it" for place in one_sided]
    mine, theirs = promised(committed), promised(present)
    for kind, name in sorted(mine.keys() & theirs.keys()):
        limit, relative = TOLERANCES[kind]
        x, y = (float(np.mean(np.array(values[kind, name], np.float64))) for values in (mine, theirs))  # None is NaN
        off = abs(x - y) / (max(abs(x), abs(y), 1e-300) if relative else 1)
        if not (off <= limit or (math.isnan(x) and math.isnan(y))):
            faults.append(f"{name}: {x!r} | {y!r}, off by {off:.2g}, allowed {limit:g}")
    print("\n".join(["", *faults, f"{len(mine)} metrics compared; {len(faults)} broken promise(s)"]))
    return len(faults)


def _of_stage(stage: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a stage's lock says of code, parameters and command, and its outputs."""
    code = {dep["path"]: dep["md5"] for dep in stage.get("deps", []) if not dep["path"].startswith("data/")}
    outs = {out["path"]: out["md5"] for out in stage.get("outs", [])}
    return {**code, **stage.get("params", {}), "cmd": stage.get("cmd")}, outs


def main(arguments: list[str] | None = None) -> int:
    """Run the check; return 0 if everything is as promised, 1 if not, 2 if it could not be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("quick", "fresh", "against-lock", "here"):
        variable = os.environ.get(name.upper().replace("-", "_"), "") if name != "here" else ""
        parser.add_argument(f"--{name}", action="store_true", default=variable not in ("", "0"))
    options = parser.parse_args(arguments)
    if (options.against_lock and options.quick) or (options.here and not options.against_lock):
        parser.error("expected --quick or --against-lock, and --here with --against-lock only")
    root = Path(__file__).resolve().parent.parent
    try:
        if options.here:
            return int(against_lock(root, root) > 0)
        if run(["git", "status", "--porcelain", "--untracked-files=no"], root).strip():
            print("check-repro: uncommitted changes are not checked, only the commit is")
        with tempfile.TemporaryDirectory(prefix="check-repro-") as name:
            places = [(Path(name, "first", "project"), FIRST)]
            if not options.against_lock:
                second = SECOND | foreign_locale(Path(name, "locales"))
                places.append((Path(name, "second", "quite another náme"), second))
            print("check-repro:", *(own for _, own in places), sep="\n  ", flush=True)
            with ThreadPoolExecutor(2 if options.quick else 1) as pool:
                runs = [pool.submit(clone_and_run, root, *place, options.quick, options.fresh) for place in places]
            clones = [one.result() for one in runs]
            return int((against_lock(root, clones[0]) if options.against_lock else compare(*clones)) > 0)
    except CheckError as error:
        print(f"check-repro: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
