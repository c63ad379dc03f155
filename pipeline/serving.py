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
        """Return the class and the probability of each, or the value in its unit, for ``(N, T, I)`` raw inputs."""
        about, scaled = self.network.about, (np.asarray(model_input) - self.offset) / self.scale
        outputs = self.network.predict(scaled.astype(np.float32))
        if not about["classes"]:
            values = outputs[:, 0].astype(float) * about["target_scale"] + about["target_offset"]
            return pd.DataFrame({about["unit"] or "value": values})
        best = [about["classes"][k] for k in outputs.argmax(1)]
        return pd.DataFrame({"class": best, **dict(zip(about["classes"], outputs.T, strict=True))})


set_model(ServedNetwork())
