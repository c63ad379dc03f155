"""A scratch project, gone at the end, in which examples run single stages, as ``make repro`` runs all in yours."""

import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ruamel.yaml import YAML

from pipeline import params, sections
from pipeline.common import records


@contextlib.contextmanager
def project(changes: str) -> Iterator[Callable[..., None]]:
    """Change into a scratch folder whose params.yaml has these changes; yield what runs stages, each a command line."""
    home, set_before = Path.cwd(), os.environ.get("NEM_EXECUTOR")

    def run(*stages: str) -> None:
        for name, *line in map(str.split, stages):
            if importlib.import_module(f"stages.{name}").main(line):
                raise SystemExit(f"{name} stopped: see above")

    with tempfile.TemporaryDirectory() as folder:
        try:
            os.chdir(folder)
            os.environ["NEM_EXECUTOR"] = "serial"  # so little work needs no processes
            content = sections.merge(params.Params().model_dump(), YAML(typ="safe").load(changes))
            records.write_text(Path("params.yaml"), params.render(params.validate(content)))
            yield run
        finally:
            os.chdir(home)
            os.environ.pop("NEM_EXECUTOR")
            os.environ.update({"NEM_EXECUTOR": set_before} if set_before else {})
