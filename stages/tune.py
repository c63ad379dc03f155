"""Choose hyperparameters of a task on validation sequences; write ``docs/tuning_TASK.md``, print the profile's part."""

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.common import command, jobs, kept, paths, records, sequences

ARGUMENTS = {
    "task": {"nargs": "?", "default": "fx"},
    "--split": {"help": "whose validation part chooses; the task's first split otherwise"},
}


@command.stage("tune", ARGUMENTS)
def main(task: str, split: str | None) -> None:
    """Search; what a worker needs not is imported here."""
    from pipeline import params, tasks
    from pipeline.evaluation.tables import markdown
    from pipeline.training import settings, train, tune

    chosen, own = params.load(), tasks.of(task)
    forms = own.forms(chosen) if own.forms else {"": (paths.sequences(task), {})}
    folders = {name: folder for name, (folder, _) in forms.items()}
    first = next(iter(folders.values()))
    networks = [settings.of(chosen.training.model_dump(), chosen.train.of(task, cell), cell) for cell in chosen.cells]
    device = jobs.device(chosen.training.device)
    plan = train.Work(first, split, "apart", networks[0], chosen.seed, task, (), device)
    choice = tune.tune(folders, networks, plan)
    overrides: dict[str, Any] = {"train": {task: choice.networks}}
    overrides |= {task: forms[choice.data][1]} if forms[choice.data][1] else {}
    stream = io.StringIO()
    YAML().dump(overrides, stream)
    data = sequences.load(first, split)
    losses = f"squared errors [{data.unit or 'raw units'}²]" if data.head == "identity" else "cross entropies [nats]"
    source = records.read_json(paths.source_record(task)).get("source")
    asked = f" SPLIT={split}" if split else ""
    text = (
        f"# Hyperparameters of the task {task}\n\n"
        f"Written by `make tune TASK={task}{asked}` (profile `{chosen.profile}`, source `{source}`). Losses are mean "
        f"{losses} on the validation part of the training sequences after R epochs, over {tune.Grid().repetitions} "
        "repetitions with seeds of their own (mean, lowest, highest). Test sequences chose nothing.\n\n"
        f"## Chosen\n\n```yaml\n{stream.getvalue()}```\n\n"
        "## Step 1: the noiseless network\n\n"
        f"{markdown(choice.noiseless.sort_values(['cell', 'validation_loss']))}\n\n"
        "## Step 2: strength and annealing of the noise\n\n"
        "Chosen by the NEM condition's own validation loss; blind noise gets the same strength.\n\n"
        f"{markdown(choice.noisy.sort_values(['cell', 'condition', 'validation_loss']))}\n"
    )
    records.write_text(Path(f"docs/tuning_{task}.md"), text)
    kept.forget(tune.KEEP)
    kept.forget("tune-data")
    print(stream.getvalue())
