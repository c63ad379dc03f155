"""What a Ray cluster can do: the overhead of a job, and a model of up to 1,000 workers: ``python -m tools.scaling``.

Jobs that sleep take no core, so that a machine of two can hold four workers. The model: jobs of s seconds on W workers
give ``min(W / (s + o), 1 / d)`` jobs per second; o [s] is what a worker waits between two jobs, d [s] what the driver
computes per job. Both are measured with jobs of no time. Service times, bytes and the driver's own work on a result are
those of jobs of the demo, measured one by one.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nem import CONDITIONS
from pipeline.common import cluster, jobs, kept, paths, records
from pipeline.training import engine
from pipeline.training.settings import NoiseTable, Settings, Strength
from pipeline.video.acquire import synthetic
from pipeline.video.features import features, inception
from pipeline.video.frames import frames
from tools.bench import engine as bench

WORKERS, SECONDS, JOBS = (1, 2, 4), (0.0, 0.02, 0.1, 0.5), 1200
MANY = (10, 100, 1000)  # workers of the projection
NETWORK = 1.25e9  # bytes per second of the driver's network, assumed: 10 Gbit/s
RUN = 8.2 / 52  # seconds that MLflow takes for a network, whose curves are one batch, measured with SQLite


class Stage(NamedTuple):
    """A job of a stage: how long it takes [s], its bytes in and out, and the seconds of the driver and of MLflow."""

    name: str
    seconds: float
    moved: int
    driver: float
    tracked: float


def sleep(seconds: float) -> None:
    """Take time and no core."""
    time.sleep(seconds)


def rate(workers: int, seconds: float, count: int) -> tuple[float, float]:
    """Return jobs per second from the first result to the last, and the driver's own seconds per job."""
    os.environ["NEM_WORKERS"] = str(workers)
    results = jobs.run(sleep, [seconds] * count, total=1, label=f"{workers} workers", where="ray")
    next(results)
    start, own = time.perf_counter(), time.process_time()
    rest = sum(1 for _ in results)
    return rest / (time.perf_counter() - start), (time.process_time() - own) / rest


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long a call takes [s] with one thread, and what it returned."""
    with jobs.one_thread():
        start = time.perf_counter()
        value = work()
        return time.perf_counter() - start, value


def stages(folder: Path) -> list[Stage]:
    """Measure a job of each stage."""
    video, store = folder / "video.mpg", kept.Kept("scaling", "scaling")

    def keeping(content: bytes) -> float:
        return timed(lambda: store.put("job", content))[0]

    records.write_bytes(video, synthetic.film(synthetic.Clip(1, next(iter(synthetic.SPORTS)), 1, 1)))
    job = frames.VideoJob(video, records.sha256_of(video), 1.4, 95)
    decode, content = timed(lambda: frames.sample(job))
    found = [Stage("frames, a video", decode, video.stat().st_size + len(content), keeping(content), 0)]
    network = inception.Extractor(inception.random_weights(1), "torchvision", "cpu")
    images = np.zeros((features.CHUNK, frames.SIZE, frames.SIZE, 3), np.uint8)
    seconds, part = timed(lambda: [network(images[start : start + 32]) for start in range(0, features.CHUNK, 32)])
    chunk = sum(one.nbytes for one in part)
    found.append(Stage("features, 128 frames", seconds, chunk + 128 * len(content) // 8, keeping(bytes(chunk)), 0))
    data, noise = bench.dataset(bench.SIZES["FX"]), NoiseTable(*(Strength(0.1, 0.5),) * 4)
    plan = Settings("lstm", 50, 100, 100, bench.BATCH, "sgd", 0.01, 0.0, noise, CONDITIONS)
    two = Settings(**{**vars(plan), "epochs": 2, "max_epochs": 2})
    few = engine.Engine(data, two, seed=1, stream="days", repetitions=[0])
    seconds, results = timed(few.run)
    packed = kept.pack(vars(results[0]))
    unpack = timed(lambda: kept.unpack(packed))[0]
    found.append(Stage("train, 13 networks, 100 epochs", 50 * seconds, len(packed), keeping(packed) + unpack, 13 * RUN))
    kept.forget("scaling")
    return found


def main() -> None:
    """Print three tables in Markdown."""
    measured = {}
    print("| workers | " + " | ".join(f"{seconds:g} s" for seconds in SECONDS) + " | driver per job |")
    print("| ---: |" + " ---: |" * (len(SECONDS) + 1))
    for workers in WORKERS:
        rate(workers, 0.2, 20 * workers)  # until all workers have begun
        for seconds in SECONDS:
            count = min(JOBS, int(4 * workers / seconds)) if seconds else JOBS
            measured[workers, seconds] = rate(workers, seconds, count)
        own = [measured[workers, seconds] for seconds in SECONDS]
        told = " | ".join(f"{jobs_per_second:.1f}" for jobs_per_second, _ in own)
        print(f"| {workers} | {told} | {1e3 * own[0][1]:.2f} ms |", flush=True)
        cluster.connect(None, ()).shutdown()
    driver = min(measured[workers, 0.0][1] for workers in WORKERS)
    wait = max(1 / measured[1, 0.0][0] - driver, 0.0)
    print(f"\nd = {1e3 * driver:.2f} ms, o = {1e3 * wait:.2f} ms; the model's jobs per second, measured in brackets:\n")
    print("| workers | " + " | ".join(f"{seconds:g} s" for seconds in SECONDS[1:]) + " |")
    print("| ---: |" + " ---: |" * len(SECONDS[1:]))
    for workers in WORKERS:
        both = [(min(workers / (s + wait), 1 / driver), measured[workers, s][0]) for s in SECONDS[1:]]
        print(f"| {workers} | " + " | ".join(f"{model:.1f} ({found:.1f})" for model, found in both) + " |")
    print("\n| a job | seconds | MB moved | driver | busy of " + " | of ".join(map(str, MANY)) + " | bound |")
    print("| --- |" + " ---: |" * (3 + len(MANY)) + " --- |")
    with tempfile.TemporaryDirectory() as folder:
        for stage in stages(Path(folder)):
            most = {"driver": 1 / (driver + stage.driver), "object store and network": NETWORK / max(1, stage.moved)}
            if stage.tracked:
                most["MLflow"] = 1 / (driver + stage.driver + stage.tracked)  # the driver waits for it
            bound = min(most, key=lambda name: most[name])
            busy = [min(1.0, most[bound] * (stage.seconds + wait) / many) for many in MANY]
            shown = " | ".join(f"{100 * share:.0f} %" for share in busy)
            room = most[bound] * (stage.seconds + wait)
            cells = f"{stage.seconds:.2f} | {stage.moved / 1e6:.2f} | {1e3 * (driver + stage.driver):.1f} ms"
            print(f"| {stage.name} | {cells} | {shown} | {bound}: {room:.0f} workers |", flush=True)


if __name__ == "__main__":
    if paths.PIPELINE.is_file():
        main()
    else:
        sys.exit("scaling: expected the project's folder as the present one, found another; change into it")
