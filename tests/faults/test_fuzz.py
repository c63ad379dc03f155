"""The readers of foreign files under a bounded fuzz: a result, or an error that says why; never anything else."""

import math
import os
import string

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import params
from pipeline.fx import rates, synthetic

EXAMPLES = int(os.environ.get("NEM_FUZZ", "1500"))
"""Examples per target; NEM_FUZZ=100000 makes a night of it."""
LONG = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

CELLS = st.one_of(
    st.sampled_from(
        ["", "0", "-1", "1e308", "1e309", "nan", "inf", "=1+1", "@SUM(A1)", "١٢", "1,000", "1.000,5", "−5", "+.5e1"]
    ),
    st.sampled_from(["2011-02-09", "Feb 09, 2011", "02/09/2011", "09.02.2011", "20110209", "2011-02-30", "0000-00-00"]),
    st.floats().map(repr),
    st.integers().map(str),
    st.text(max_size=8),
    st.dates().map(str),
)
HEADS = st.permutations(["Date", "Open", "High", "Low", "Price"]).flatmap(
    lambda names: st.sampled_from(
        [names, [*names, "Change %"], names[:4], [n.upper() for n in names], ["\ufeff" + names[0], *names[1:]]]
    )
)


@st.composite
def tables(draw):
    """CSV text that is nearly right."""
    head = draw(HEADS)
    rows = draw(st.lists(st.lists(CELLS, min_size=len(head) - 1, max_size=len(head) + 1), max_size=8))
    quote = draw(st.sampled_from(["", '"']))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    return end.join(",".join(f"{quote}{cell}{quote}" for cell in row) for row in [head, *rows])


def check_rates(text):
    try:
        found = rates.parse(text)
    except rates.RatesError as error:
        assert str(error)
        return
    assert len(found) > 0
    assert np.isfinite(found.values).all()
    assert (found.values > 0).all()
    assert (np.diff(found.dates) > np.timedelta64(0, "D")).all()


def check_file(folder, content, read, refusal):
    """A file of any bytes is read, or refused with a message; nothing else is raised."""
    file = folder / "content"
    file.write_bytes(content)
    try:
        read(file)
    except refusal as error:
        assert str(error)


@LONG
@given(tables())
def test_nearly_right_tables(text):
    check_rates(text)


@LONG
@given(st.text(max_size=400))
def test_any_text_as_rates(text):
    check_rates(text)


@LONG
@given(st.binary(max_size=400))
def test_any_bytes_as_rates(tmp_path, content):
    check_file(tmp_path, content, rates.read, rates.RatesError)


@LONG
@given(st.integers(0, 10_000), st.integers(0, 255), st.integers(0, 3))
def test_a_damaged_byte_of_a_good_file(tmp_path, place, byte, kind):
    source, file = tmp_path / "good.csv", tmp_path / "rates.csv"
    if not source.is_file():
        rates.write(synthetic.generate(64, 1), source)
    content = bytearray(source.read_bytes())
    place %= len(content)
    if kind == 0:
        content[place] = byte
    elif kind == 1:
        del content[place : place + byte]
    elif kind == 2:
        content[place:place] = bytes([byte]) * 3
    else:
        content = content[:place]
    file.write_bytes(bytes(content))
    try:
        check = rates.read(file)
    except rates.RatesError as error:
        assert str(error)
    else:
        assert np.isfinite(check.values).all()


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.dates(),
    st.sampled_from(["1", "1e3", "~", "yes", "０"]),
)


@st.composite
def nearly_right_params(draw):
    """A profile with one to three values, keys or whole sections exchanged for something else."""
    content = params.Params().model_dump()
    for _ in range(draw(st.integers(1, 3))):
        node = content
        while True:
            key = draw(st.sampled_from(sorted(node)))
            if not isinstance(node[key], dict) or not node[key] or draw(st.integers(0, 5)) == 0:
                break
            node = node[key]
        action = draw(st.integers(0, 2))
        if action == 0:
            node[key] = draw(
                LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=3)
            )
        elif action == 1:
            node[key + draw(st.text(string.ascii_letters, max_size=2))] = node.pop(key)
        else:
            del node[key]
            if not node:
                break
    return content


@LONG
@given(nearly_right_params())
def test_nearly_right_params(content):
    try:
        found = params.validate(content)
    except params.ParamsError as error:
        assert "fault" in str(error)
        return
    for task in found.tasks:
        for cell in found.cells:
            assert math.isfinite(found.train.of(task, cell).learning_rate)
    assert params.validate(YAML(typ="safe", pure=True).load(params.render(found))) == found


@LONG
@given(st.text(max_size=300) | st.text("{}[]:-,&*!|>'\"#%@`\n \t0aé", max_size=120))
def test_any_text_as_params(tmp_path, text):
    check_file(tmp_path, text.encode("utf-8", "surrogatepass"), params.load, params.ParamsError)


@LONG
@given(st.binary(max_size=200))
def test_any_bytes_as_params(tmp_path, content):
    check_file(tmp_path, content, params.load, params.ParamsError)


@pytest.mark.parametrize("depth", [1_000, 100_000])
@pytest.mark.parametrize("bracket", ["[", "{a: ", "- "])
def test_deep_nesting(tmp_path, depth, bracket):
    file = tmp_path / "params.yaml"
    file.write_text(bracket * depth)
    with pytest.raises(params.ParamsError):
        params.load(file)
