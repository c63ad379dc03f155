"""What all commands of stages share: arguments, and expected faults that end with a message and not a traceback."""

import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.common import paths, records

Main = Callable[..., int]


def stage(name: str, arguments: Mapping[str, Mapping[str, Any]] | None = None, *,
          passes: tuple[Path, Path] | None = None) -> Callable[[Callable[..., None]], Main]:  # fmt: skip
    """Turn a stage's work into its ``main``, which takes a command line and returns an exit status.

    Where the stage's module is the program (``python -m stages.<name>``), it runs at once: nothing may follow in it.
    ``arguments`` are what the command line may say, each with its settings for :meth:`ArgumentParser.add_argument`; the
    work gets them as keywords. Without any, the command line is not looked at. Where the first folder that the stage
    ``passes`` on says that its task is switched off, so does the second one, and there is no work.

    ``ValueError`` and ``OSError`` (and their subclasses, which all of the project's own errors are) are faults of input
    or environment, told in the name of the stage; anything else is a defect and keeps its traceback.
    """

    def decorate(work: Callable[..., None]) -> Main:
        def main(line: list[str] | None = None) -> int:
            about, options = sys.modules[work.__module__].__doc__, Namespace()
            if arguments:
                parser = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
                for argument, settings in arguments.items():
                    parser.add_argument(argument, **settings)
                options = parser.parse_args(line)
            start = time.perf_counter()
            try:
                if passes and records.absent(passes[0]):
                    records.write_absent(passes[1])
                    print(f"{name}: the task is switched off")
                else:
                    work(**vars(options))
                _note(
                    " ".join([name, *(value for value in vars(options).values() if isinstance(value, str))]),
                    time.perf_counter() - start,
                )
            except (ValueError, OSError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
            return 0

        if work.__module__ == "__main__":
            sys.exit(main())
        return main

    return decorate


def _note(name: str, seconds: float) -> None:
    """Keep how long a stage took, for the end of ``make repro``; no output holds it, and no stage fails by it."""
    with suppress(OSError, ValueError):
        known = records.read_json(paths.TIMES) if paths.TIMES.is_file() else {}
        records.write_json(paths.TIMES, {**known, name: round(seconds, 1)})
