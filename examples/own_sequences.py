"""Own sequences: any task from one file. In your clone the same goes into params.yaml; then ``make repro``."""

import numpy as np

from examples import scratch

PARAMS = """
tasks: [own]
cells: [lstm]
own:
  acquire: {path: my_sequences.npz, title: Walks, unit: metres}
  sequences: {split: groups}
training: {repetitions: 2, conditions: [none, blind-additive-both, nem-additive-both]}
train: {own: {hidden: 8, epochs: 10, max_epochs: 12, learning_rate: 0.03}}
"""


def write_sequences(file: str) -> None:
    """Write 200 walks of 6 to 9 steps each, of 20 walkers: where do they end?"""
    random = np.random.default_rng(1)
    x, lengths = random.normal(size=(200, 9, 2)), random.integers(6, 10, 200)
    x[np.arange(9) >= lengths[:, None]] = 0  # never looked at
    np.savez(file, x=x, y=x.sum(1), lengths=lengths, group=np.arange(200) % 20)


def main() -> dict[str, float]:
    """Run the stages, and return the squared errors [metres²] beside the baselines."""
    found = scratch.results(
        PARAMS, lambda: write_sequences("my_sequences.npz"), "acquire own", "sequences", "train own lstm", "evaluate"
    )
    return scratch.means(found["own"]["lstm"], "test_mse") | found["baselines"]["own"]


if __name__ == "__main__":
    print(main())
