"""Several labels at once: which of three events happened in a sequence? A logistic head, and paired repetitions."""

import numpy as np
import pandas as pd

from pipeline.compare import compare


def events(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy sequences ``(count, 10, 3)``, and which of their three channels have a pulse ``(count, 3)``."""
    random = np.random.default_rng(seed)
    happened, when = random.random((count, 3)) < 0.4, random.integers(0, 8, (count, 3))
    pulses = (np.arange(10)[None, :, None] - when[:, None]) // 2 == 0  # two slices long
    return 0.7 * random.normal(size=(count, 10, 3)) + 2 * pulses * happened[:, None], happened


def main() -> pd.DataFrame:
    """Compare NEM noise in the outputs with no noise; y's zeros and ones choose the logistic head."""
    x, y = events(300, seed=1)
    conditions = ("none", "blind-additive-output", "nem-additive-output")
    table = compare(x, y, conditions=conditions, repetitions=7, cell="gru", epochs=15, hidden=8, learning_rate=0.02)
    print(table[["condition", "mean", "difference", "p_holm", "verdict", "test_accuracy"]].to_string(index=False))
    return table


if __name__ == "__main__":
    main()
