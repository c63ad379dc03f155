"""The tasks, one object in one module each: a new task is a new module here with a ``TASK``, and its stage of data."""

import importlib
import pkgutil

from pipeline.evaluation.task import Task

MODULES = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
TASKS: dict[str, Task] = {module.TASK.name: module.TASK for module in MODULES}
"""Every task by its name."""


def of(name: str) -> Task:
    """Return the task called ``name``; a ``ValueError`` says that there is none."""
    if name not in TASKS:
        raise ValueError(f"expected one of the tasks {sorted(TASKS)}, found {name!r}; correct tasks in params.yaml")
    return TASKS[name]
