"""A scratch project, gone at the end, in which examples run single stages, as ``make repro`` runs all in yours."""

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import params, sections
from pipeline.common import paths, records


def results(changes: str, write: Callable[[], object], *stages: str) -> dict[str, Any]:
    """Return what ``metrics.json`` holds after stages, each a command line, in a scratch folder.

    Its params.yaml has these changes; ``write`` puts the data there.
    """
    before = os.environ.get("NEM_EXECUTOR")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as undo:
        undo.callback(os.chdir, Path.cwd())
        os.chdir(folder)
        undo.callback(os.environ.update, {"NEM_EXECUTOR": before} if before else {})
        undo.callback(os.environ.pop, "NEM_EXECUTOR")
        os.environ["NEM_EXECUTOR"] = "serial"  # so little work needs no processes
        content = sections.merge(params.Params().model_dump(), YAML(typ="safe").load(changes))
        records.write_text(Path("params.yaml"), params.render(params.validate(content)))
        write()
        for name, *line in map(str.split, stages):
            if importlib.import_module(f"stages.{name}").main(line):
                raise SystemExit(f"{name} stopped: see above")
        return records.read_json(paths.METRICS)


def means(conditions: dict[str, Any], metric: str) -> dict[str, float]:
    """Return a metric's mean over repetitions, by condition."""
    return {name: own[metric]["mean"] for name, own in conditions.items()}
