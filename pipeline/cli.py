"""What every stage's command shares: expected faults end with a message and status 1, not with a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(stage: str, work: Callable[[], None]) -> int:
    """Run a stage's work; return its exit status.

    Args:
        stage: the stage's name, for the message.
        work: what to do. ``ValueError`` and ``OSError`` (and their subclasses, which all of the library's own errors
            are) are faults of input or environment; anything else is a defect and keeps its traceback.
    """
    try:
        work()
    except (ValueError, OSError) as error:
        print(f"{stage}: {error}", file=sys.stderr)
        return 1
    return 0
