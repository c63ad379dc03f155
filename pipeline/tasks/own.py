"""Own sequences: baselines that see no order in time, and errors by class."""

import numpy as np

from pipeline.evaluation.metrics import constant_reference
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import Evidence, Outcome, Task
from pipeline.tasks import video


def references(evidence: Evidence) -> dict[str, float]:
    """Return the best constant answer, and models of a sequence's mean slice, fitted on training sequences only.

    Of classes they are those of videos; of values linear least squares; of labels there is none.
    """
    data = evidence.dataset
    if data.head == "softmax":
        return video.references(evidence)
    constant = constant_reference(evidence)
    if data.head == "identity":
        train, test = (np.insert(side.means().astype(np.float64), 0, 1.0, axis=1) for side in (data.train, data.test))
        fitted = np.linalg.lstsq(train, data.train.targets.double().numpy(), rcond=None)[0]
        errors = (test @ fitted - data.test.targets.double().numpy()) * data.target_scale
        constant["linear_regression"] = float((errors**2).sum(1).mean())
    return constant


def draw(outcome: Outcome) -> list[Picture]:
    """Draw the confusion matrices of classes, as of videos."""
    return video.draw(outcome) if outcome.task.head == "softmax" else []


TASK = Task(
    name="own", title="Own sequences", head="identity", references=references, draw=draw,
    words={"linear_regression": "linear regression of the mean slice"},
)  # fmt: skip
