"""Files made to hurt, and any bytes: a result, or a short error that says why, in seconds and without much memory.

Archives and feature tables made to hurt: tests/video/acquire.
"""

import contextlib
import os
import resource
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import params
from pipeline.fx import rates, windows
from tests.conftest import ROOT
from tests.faults import harness

EXAMPLES = int(os.environ.get("NEM_FUZZ", "500"))
"""Examples per target; NEM_FUZZ=100000 makes a night of it."""
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
LONG = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
HEAD = "Date,Open,High,Low,Price\n"
CSV = {
    "faults to the end": HEAD + "x,1,1,1,1\n" * 1_500_000,
    "one cell": "x" * rates.MAX_BYTES,
    "one quoted cell": HEAD + '"' + "x\n" * 8_000_000,
    "commas": "," * (rates.MAX_BYTES - 1),
    "one day for ever": HEAD + "2011-02-09,1,1,1,1\n" * 850_000,
    "two readings": "Datum;Zuletzt\n" + "30.12.2022;82,717\n" * 900_000,
    "groups of digits": HEAD + '2011-02-09,"' + "1,00" * 30_000 + ',",1,1,1\n',
    "too large": "x" * (rates.MAX_BYTES + 1),
}
READ = """
import sys, time
from pathlib import Path
from pipeline.fx import rates
for name in sys.argv[2:]:
    began = time.monotonic()
    try:
        rates.read(Path(sys.argv[1], name))
    except rates.RatesError as error:
        print(name, len(str(error)), time.monotonic() - began, sep="|")
"""


def test_ends_in_time_and_memory_with_a_short_message(tmp_path):
    for name, content in CSV.items():
        (tmp_path / name).write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path), *CSV], cwd=ROOT, env=harness.environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
        capture_output=True, text=True, timeout=60 * len(CSV), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line.split("|") for line in done.stdout.splitlines()]
    assert [name for name, _, _ in told] == list(CSV), "every file is refused"
    assert all(int(length) < 5_000 and float(seconds) < 60 for _, length, seconds in told), told


CELLS = st.one_of(
    st.sampled_from(["", "0", "-1", "1e308", "1e309", "nan", "inf", "=1+1", "١٢", "1,000", "1.000,5", "−5", "+.5e1"]),
    st.sampled_from(["2011-02-09", "Feb 09, 2011", "02/09/2011", "09.02.2011", "20110209", "2011-02-30", "0000-00-00"]),
    *(st.floats().map(repr), st.integers().map(str), st.text(max_size=8), st.dates().map(str)),
)


@st.composite
def tables(draw):
    names = draw(st.permutations(["Date", "Open", "High", "Low", "Price"]))
    head = draw(st.sampled_from([names, [*names, "Change %"], names[:4], ["\ufeff" + names[0], *names[1:]]]))
    rows = draw(st.lists(st.lists(CELLS, min_size=len(head) - 1, max_size=len(head) + 1), max_size=8))
    quote, end = draw(st.sampled_from(["", '"'])), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(",".join(f"{quote}{cell}{quote}" for cell in row) for row in [head, *rows])


@LONG
@given((tables() | st.text(max_size=400)).map(lambda text: text.encode("utf-8", "replace")) | st.binary(max_size=400))
def test_any_content_as_rates(tmp_path, content):
    file = tmp_path / "rates.csv"
    file.write_bytes(content)
    try:
        series = rates.read(file)
    except rates.RatesError as error:
        assert str(error)
        return
    assert len(series) > 0
    columns = series.values[:, ~np.isnan(series.values).all(0)]  # a column that the file lacks is NaN as a whole
    assert columns.size
    assert (np.isfinite(columns) & (columns > 0)).all()
    assert (np.diff(series.dates) > np.timedelta64(0, "D")).all()


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates()
VALUES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=3)


@st.composite
def nearly_right_params(draw):
    """A profile with one to three values, keys or whole sections exchanged for something else."""
    content = params.Params().model_dump()
    for _ in range(draw(st.integers(1, 3))):
        node, key = content, draw(st.sampled_from(sorted(content)))
        while isinstance(node[key], dict) and node[key] and draw(st.integers(0, 5)):
            node, key = node[key], draw(st.sampled_from(sorted(node[key])))
        value, other = node.pop(key), draw(st.sampled_from([key, key + "x", None]))
        if other is not None:
            node[other] = draw(VALUES) if other == key else value
    return content


@LONG
@given(nearly_right_params())
def test_nearly_right_params(content):
    try:
        chosen = params.validate(content)
    except params.ParamsError as error:
        assert "fault" in str(error)
    else:
        assert params.validate(YAML(typ="safe", pure=True).load(params.render(chosen))) == chosen


YAML_TEXT = st.text(max_size=300) | st.text("{}[]:-,&*!|>'\"#%@`\n \t0aé", max_size=120)


@LONG
@given(YAML_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=200))
def test_any_content_as_params(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    with contextlib.suppress(params.ParamsError):
        params.load(tmp_path / "params.yaml")


@pytest.mark.parametrize("kind", ["folder", "fifo", "/dev/zero", "nowhere", "itself"])
def test_what_is_no_file(tmp_path, kind):
    for name, read in (("rates.csv", rates.read), ("params.yaml", params.load), ("w.parquet", windows.load)):
        place = tmp_path / name
        make = {"folder": place.mkdir, "fifo": lambda file=place: os.mkfifo(file)}
        make.get(kind, lambda file=place: file.symlink_to(file.name if kind == "itself" else kind))()
        with pytest.raises((ValueError, OSError), match=name):
            read(place)
