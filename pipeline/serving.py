"""A trained network as MLflow serves it, which runs this file: code and safetensors, so that no pickle is read."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.common import records
from pipeline.training import models


class ServedNetwork(PythonModel):
    """A trained network behind MLflow's interface, which takes and gives what people have."""

    def load_context(self, context: Any) -> None:  # noqa: ANN401 - MLflow's context
        """Read the weights, and how raw inputs are scaled."""
        self.network = models.load(Path(context.artifacts["weights"]))
        scaling = records.read_json(Path(context.artifacts["inputs"]))
        self.offset, self.scale = (np.asarray(scaling[name]) for name in ("offset", "scale"))

    # This very type, as MLflow warns of all but those that it knows.
    def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> pd.DataFrame:  # noqa: ANN401
        """Return probabilities, with the class if it is one, or values in units, for ``(N, T, I)`` raw inputs."""
        about, scaled = self.network.about, (np.asarray(model_input) - self.offset) / self.scale
        outputs = self.network.predict(scaled.astype(np.float32))
        if not about["classes"]:
            outputs = outputs.astype(float) * about["target_scale"] + about["target_offset"]
        frame = pd.DataFrame(outputs, columns=self.network.names)
        if self.network.one_class:
            frame.insert(0, "class", [about["classes"][k] for k in outputs.argmax(1)])
        return frame


set_model(ServedNetwork())
