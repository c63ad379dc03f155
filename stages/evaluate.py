"""Stage evaluate: metrics, the paper's tables and figures, and the report."""

from pipeline import params, tasks
from pipeline.common import command
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.statistics import Bootstrap


@command.stage("evaluate")
def main() -> None:
    """Evaluate what the parameters name."""
    settings = params.load()
    bootstrap = Bootstrap(settings.evaluate.confidence, settings.evaluate.bootstrap, settings.seed)
    evaluate([tasks.of(name) for name in settings.tasks], settings.cells, bootstrap, settings.profile)
