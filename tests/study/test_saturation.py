"""Few groups, slices out of order, and logistic regression, with known answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.evaluation.statistics import Bootstrap
from pipeline.study import rows, saturation
from tests.study.conftest import row_of
from tests.training import small

BOOTSTRAP = Bootstrap(0.95, 200, 1)


def test_logistic_regression_sees_the_mean_and_no_order():
    def by_mean(side):
        return replace(side, targets=torch.eye(3)[(side.pool[side.index].mean(1)[:, 0] > 0).long()])

    data = small.dataset("softmax", (30, 15, 15))
    data = replace(data, train=by_mean(data.train), test=by_mean(data.test), validation=by_mean(data.validation))
    probabilities = saturation.logistic(data)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert not probabilities[:, 2].any(), "a class that is not among the training sequences"
    assert (probabilities.argmax(1) == data.test.targets.argmax(1).numpy()).mean() > 0.8
    turned = replace(data, test=replace(data.test, index=data.test.index.flip(1)))
    np.testing.assert_allclose(saturation.logistic(turned), probabilities, rtol=1e-5)
    with pytest.raises(ValueError, match="expected validation"):
        saturation.logistic(replace(data, validation=None))


def test_scores_count_sequences_and_recordings():
    data = small.dataset("softmax", (20, 4, 0))
    test = replace(data.test, targets=torch.eye(3)[[0, 0, 1, 2]])
    probabilities = np.array([[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.0, 0.9, 0.1], [0.3, 0.4, 0.3]])
    names = dict(zip(test.rows.tolist(), ["a", "a", "b", "c"], strict=True))
    told = rows.scores(probabilities, replace(data, test=test), names)
    assert told["recording_accuracy"] == pytest.approx(2 / 3), "the mean of a's two clips is right"
    assert "recording_accuracy" not in rows.scores(probabilities, replace(data, test=test), None)


def test_the_tables_hold_what_was_fabricated():
    def row(purpose, condition, r, accuracy, split="groups", cell="lstm"):
        numbers = {"test_accuracy": accuracy, "test_loss": 1 - accuracy}
        return row_of(purpose, "video", split, cell, condition, r, **numbers)

    pairs = [(c, r) for c in ("none", "nem-additive-both") for r in range(4)]
    told = {"groups 1": 0.5, "order shuffled": 0.6, "tuned": 0.8}
    table = [row(purpose, c, r, value + 0.01 * r) for purpose, value in told.items() for c, r in pairs]
    table += [row("tuned", c, r, 0.99, split="random") for c, r in pairs] + [row("slow", c, r, 0.1) for c, r in pairs]
    table += [row("tuned", "matched-additive-both", r, 0.2) for r in range(4)]
    own = saturation.of(pd.DataFrame(table))
    found = saturation.table(own, BOOTSTRAP).set_index(["training", "condition"])
    assert len(found) == 6
    for training, value in (("groups 1", 0.5), ("order shuffled", 0.6), ("groups all", 0.8)):
        line = found.loc[training, "none"]
        assert line.test_accuracy == pytest.approx(100 * (value + 0.015))
        assert line.test_accuracy_low < line.test_accuracy < line.test_accuracy_high
        assert line.n == 4
