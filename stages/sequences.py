"""Stage sequences: split and scale anybody's own sequences."""

from pipeline import params
from pipeline.common import command, paths, records


@command.stage("sequences", passes=(paths.raw("own"), paths.sequences("own")))
def main() -> None:
    """Write sequences."""
    from pipeline.common import sequences
    from pipeline.own import arrays, split

    settings = params.load()
    unit = records.read_json(paths.source_record("own"))["unit"]
    table = split.table(arrays.load(), settings.own.sequences, settings.seed, unit)
    sequences.write(paths.sequences("own"), table)
    ((name, sides),) = table.splits.items()
    counts = ", ".join(f"{int((sides == side).sum())} {side}" for side in sequences.SIDES)
    print(f"sequences: {counts} (split {name}), {table.index.shape[1]} slices, head {table.head}")
