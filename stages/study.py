"""The study "When does it help?": its stages (``study/dvc.yaml``), its view in MLflow, its part of the documents."""

from __future__ import annotations

import argparse
import sys

from pipeline import cli, records
from pipeline.study import data, plan, report, runs

STEPS = ("data", "map", "final", "report", "publish", "track", "docs")


def main(arguments: list[str] | None = None) -> int:
    """Run one step; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("profile", choices=("full", "quick"))
    options = parser.parse_args(arguments)
    step, profile = options.step, options.profile

    def work() -> None:
        study = plan.load(profile)
        if step == "data":
            for name, about in data.prepare(study, profile).items():
                print(f"study: {name}: {about}")
        elif step == "map":
            rows = runs.train(plan.the_map(study), study, profile, runs.map_seed(study), step)
            records.write_table(report.rows_file(profile, step), rows)
        elif step == "final":
            entries = plan.finals(study, runs.frame(report.rows_file(profile, "map")))
            rows = runs.train(entries, study, profile, study.seed, step)
            records.write_table(report.rows_file(profile, step), rows)
        elif step == "report":
            report.write(study, profile)
        elif step == "publish":
            report.publish(profile)
        elif step == "docs":
            report.document(profile)
        else:
            from pipeline import tracking

            made = tracking.sync_study(report.regimes(profile), report.AXES, profile, study.model_dump())
            print(f"study: {made} run(s) added to {tracking.store().split('://')[0]} store")

    return cli.run("study", work)


if __name__ == "__main__":
    sys.exit(main())
