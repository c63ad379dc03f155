"""Stage acquire: put the data of a task under ``data/raw`` with a record of where they came from."""

from typing import get_args

from pipeline import params
from pipeline.common import command, paths, records


@command.stage("acquire", {"task": {"choices": get_args(params.Task)}})
def main(task: params.Task) -> None:
    """Acquire, or say that the task is switched off."""
    settings, folder = params.load(), paths.raw(task)
    if task not in settings.tasks:
        records.write_absent(folder)
        records.write_json(paths.source_record(task), {"absent": True})
        print(f"acquire: task {task} is switched off")
        return
    (folder / records.ABOUT).unlink(missing_ok=True)
    params.use_mirror(settings)
    if task == "fx":
        from pipeline.fx import acquire as fx

        fx.acquire(settings.fx.acquire, settings.seed)
    elif task == "own":
        from pipeline.own import arrays

        own = settings.own.acquire  # a dump would write no path as the word none
        arrays.acquire(own.path, own.title, own.unit)
    else:
        from pipeline.video import acquire as video

        video.acquire(settings.video.acquire, settings.seed)
