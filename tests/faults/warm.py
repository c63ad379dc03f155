"""The process that stages are forked from imports this, so that a kill lands in their work: many small steps."""

import importlib

from pipeline.video.acquire import synthetic, ucf11
from pipeline.video.features import features
from tests.conftest import ROOT

for name in (
    *(f"stages.{stage.stem}" for stage in sorted((ROOT / "stages").glob("[a-z]*.py"))),
    *("pipeline.tracking", "pipeline.fx.acquire", "pipeline.video.acquire", "pipeline.training.train"),
    *("nem.kernels", "statsmodels.api", "sklearn.linear_model", "sklearn.neighbors"),
):
    importlib.import_module(name)
for name in list(ucf11.CLASSES)[2:]:
    del ucf11.CLASSES[name]
synthetic.SHORTEST = synthetic.LONGEST = 2.0
features.CHUNK = 4
