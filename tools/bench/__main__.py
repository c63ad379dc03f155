"""Run all parts, or those that are named: ``python -m tools.bench engine frames``; write data/results/bench.json."""

import sys
from collections.abc import Callable, Iterator

from pipeline.common import paths, records
from tools.bench import engine, features, frames, pipeline, scaling
from tools.bench.rows import HEADING, Row, machine

PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "engine": engine.rows, "gpu": engine.gpu_rows, "frames": frames.rows, "features": features.rows,
    "pipeline": pipeline.rows, "scaling": scaling.rows, "jobs": engine.jobs_rows,
}  # fmt: skip
TABLE = paths.RESULTS / "bench.json"


def main(names: list[str]) -> int:
    """Measure, print and keep; a name that is none of the parts ends with 2."""
    if unknown := [name for name in names if name not in PARTS]:
        print(f"bench: expected some of {', '.join(PARTS)}, found {', '.join(unknown)}", file=sys.stderr)
        return 2
    known = records.read_json(TABLE) if TABLE.is_file() and names else {}
    print(f"{machine()}\n{HEADING}")
    for part in names or PARTS:
        rows = []
        for row in PARTS[part]():
            print(row.line(), flush=True)
            rows.append(row)
        for path in {row.path for row in rows}:
            known[path] = {row.name: row.content() for row in rows if row.path == path}
        records.write_json(TABLE, known)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
