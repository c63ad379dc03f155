"""The study "When does it help?": train its grid, judge the claims, or (quick) both with tiny networks."""

import pyarrow as pa

from pipeline import params
from pipeline.common import command, paths, records
from pipeline.study import grid, report, rows, saturation
from pipeline.why import results
from stages.why import ROWS as PAPERS

FOLDER = paths.DATA / "study"
ROWS = "rows.parquet"


def train(settings: params.Params) -> pa.Table:
    """Train the map, choose from it, and train what is compared."""
    of_map = rows.collect(grid.the_map(settings), "study: map")
    finals = grid.finals(settings, rows.frame(of_map))
    return pa.concat_tables([of_map, rows.collect(finals, "study: finals"), saturation.baseline(finals)])


@command.stage("study", {"step": {"choices": ("train", "judge", "quick")}})
def main(step: str) -> None:
    """Run one step."""
    settings = params.load()
    if step == "quick":
        settings, folder = grid.quick(settings), FOLDER / "quick"
        records.write_table(folder / ROWS, train(settings))
        report.write(rows.frame(folder / ROWS), settings, folder, folder, {})
    elif step == "train":
        records.write_table(FOLDER / ROWS, train(settings))
    else:
        report.write(rows.frame(FOLDER / ROWS), settings, FOLDER / "tables", paths.RESULTS, results.sides(PAPERS))
