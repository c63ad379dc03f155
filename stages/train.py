"""Stage train: all noise conditions and repetitions of one cell on all splits of one task."""

from dataclasses import replace

from pipeline.common import command, jobs, paths, sequences


@command.stage("train", {"task": {}, "cell": {"choices": ("lstm", "gru")}})
def main(task: str, cell: str) -> None:
    """Train; what a worker needs not is imported here, while what it needs is loaded for it."""
    jobs.begin("pipeline.training.train")
    from pipeline import params, tracking
    from pipeline.training import settings, train

    chosen, folder = params.load(), paths.sequences(task)
    shared = chosen.training
    network = settings.of(shared.model_dump(), chosen.train.of(task, cell), cell)
    first = train.Work(
        folder, None, "joined", network, chosen.seed, task, tuple(range(shared.repetitions)),
        jobs.device(shared.device), networks=True, checkpoint_every=shared.checkpoint_every,
    )  # fmt: skip
    # Results of the first split are called like the task, so it goes by no name of its own.
    further = (None, *sequences.splits(folder)[1:])
    train.train(task, [replace(first, split=split) for split in further], tracking.live)
