"""Files made to hurt: each ends in a named fault within seconds and without much memory."""

import os
import resource
import subprocess
import sys

import pyarrow as pa
import pytest

from pipeline import params, records
from pipeline.fx import rates, windows
from tests.conftest import ROOT
from tests.faults import harness

HEAD = "Date,Open,High,Low,Price\n"
KILL_AFTER = 60
MEMORY = 4 << 30

READ = """
import sys
from pathlib import Path
from pipeline import params
from pipeline.fx import rates
read = {"params.yaml": params.load, "rates.csv": rates.read}
file = Path(sys.argv[1])
try:
    read[file.name](file)
except (params.ParamsError, rates.RatesError) as error:
    print(len(str(error)))
    sys.exit(3)
"""


def bounded():
    """Limit the address space, so that a file that swells is a MemoryError and not the machine's end."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


CSV = {
    "faults to the end": HEAD + "x,1,1,1,1\n" * 1_500_000,
    "one cell": "x" * rates.MAX_BYTES,
    "one quoted cell": HEAD + '"' + "x\n" * 8_000_000,
    "commas": "," * (rates.MAX_BYTES - 1),
    "blank lines": "\n" * (rates.MAX_BYTES - 1),
    "one day for ever": HEAD + "2011-02-09,1,1,1,1\n" * 850_000,
    "digits": HEAD + "2011-02-09," + "9" * 130_000 + ",1,1,1\n",
    "groups of digits": HEAD + '2011-02-09,"' + "1,00" * 30_000 + ',",1,1,1\n',
    "too large": "x" * (rates.MAX_BYTES + 1),
}
YAML = {
    "keys": "".join(f"a{k}: 1\n" for k in range(6_000)),
    "one long key": "a" * 60_000 + ": 1",
    "one long value": "seed: '" + "1" * 60_000 + "'",
    "brackets": "[" * 60_000,
    "braces": "{a: " * 16_000,
    "items": "- " * 30_000,
    "questions": "? " * 30_000,
    "anchors": "".join(f"&a{k} " for k in range(8_000)),
    "tags": "seed: " + "!a " * 20_000,
    "comments": "#\n" * 30_000 + "sed: 1",
    "tasks": "tasks: [" + "fx, " * 16_000 + "]",
    "aliases": "a: &a [x]\n" + "seed: [" + "*a, " * 16_000 + "]",
    "too large": "#" * (params.MAX_BYTES + 1),
}


@pytest.mark.parametrize(
    ("name", "content"),
    [pytest.param("rates.csv", text, id=f"csv {what}") for what, text in CSV.items()]
    + [pytest.param("params.yaml", text, id=f"yaml {what}") for what, text in YAML.items()],
)
def test_ends_in_time_and_memory_with_a_short_message(tmp_path, name, content):
    file = tmp_path / name
    file.write_text(content)
    found = subprocess.run(
        [sys.executable, "-c", READ, str(file)],
        cwd=ROOT,
        env=harness.environment(),
        preexec_fn=bounded,
        capture_output=True,
        text=True,
        timeout=KILL_AFTER,
        check=False,
    )
    assert found.returncode == 3, found.stderr[-2000:]
    assert int(found.stdout) < 5_000


@pytest.mark.parametrize(
    "table",
    [
        pa.table({}),
        pa.table({"day_index": ["=cmd|' /C calc'!A0"]}),
        pa.table({"day_index": pa.array([1], pa.int64())}),
        pa.table({"inputs": pa.array([[1.0]], pa.list_(pa.float64()))}),
    ],
)
def test_tables_of_another_schema(tmp_path, table):
    file = tmp_path / "windows.parquet"
    scaler = '{"kind": "z-score", "offset": [0, 0, 0, 0], "scale": [1, 1, 1, 1]}'
    for metadata in ({}, {"window": "4", "scaler": scaler}):
        records.write_table(file, table, metadata)
        with pytest.raises(ValueError, match=r"windows\.parquet"):
            windows.load(file)


@pytest.mark.parametrize("kind", ["folder", "fifo", "device", "broken link", "loop"])
def test_what_is_no_file(tmp_path, kind):
    for name, read in (("rates.csv", rates.read), ("params.yaml", params.load), ("w.parquet", windows.load)):
        place = tmp_path / name
        if kind == "folder":
            place.mkdir()
        elif kind == "fifo":
            os.mkfifo(place)
        else:
            place.symlink_to({"device": "/dev/zero", "broken link": "nowhere", "loop": name}[kind])
        with pytest.raises((ValueError, OSError), match=name):
            read(place)
