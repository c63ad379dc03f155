"""Own exchange rates, or any daily series. In your clone the same goes into params.yaml; then ``make repro``."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np

from examples import scratch

PARAMS = """
tasks: [fx]
cells: [gru]
fx:
  acquire: {source: csv, csv_path: my_rates.csv, unit: euros}
  windows: {train_end: "2023-07-31", inputs: [price]}
training: {repetitions: 2, conditions: [none, blind-additive-output, nem-additive-output]}
train: {fx: {hidden: 8, epochs: 10, max_epochs: 12, learning_rate: 0.03}}
"""


def write_rates(file: Path) -> None:
    """Write 300 days as a bank might: semicolons, decimal commas, day first."""
    prices = 10 + np.random.default_rng(1).normal(0, 0.02, 300).cumsum()
    lines = ["Date;Price"]
    for k, price in enumerate(prices):
        day = date(2023, 1, 1) + timedelta(days=k)
        lines.append(f"{day:%d.%m.%Y};" + f"{price:.4f}".replace(".", ","))
    file.write_text("\n".join(lines) + "\n")


def main() -> dict[str, float]:
    """Run the stages, and return the squared errors [euros²] beside yesterday's price."""
    found = scratch.results(
        PARAMS, lambda: write_rates(Path("my_rates.csv")), "acquire fx", "windows", "train fx gru", "evaluate"
    )
    return scratch.means(found["fx"]["gru"], "test_mse") | found["baselines"]["fx"]


if __name__ == "__main__":
    print(main())
