"""Parameters: every fault is found before any work starts, and named."""

import math
import re
import types
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline import params
from tests.conftest import ROOT

pytestmark = pytest.mark.hostile


def test_the_committed_params_are_the_demo_profile():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert (ROOT / "params.yaml").read_text() == params.render(params.profile("demo"))
        for file in sorted((ROOT / "profiles").glob("*.yaml")):
            made = params.profile(file.stem)
            assert params.validate(made.model_dump()) == made


def members(annotation):
    """The types that a value may have: those of a union, and of a list's items."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [found for each in typing.get_args(annotation) for found in members(each)]
    if typing.get_origin(annotation) is list:
        return members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Annotated:
        kind, *notes = typing.get_args(annotation)
        return [(found, [*notes, *more]) for found, more in members(kind)]
    return [(annotation, [])]


def leaves(section, place=()):
    """Every parameter below a section, with its field."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*place, name))
        else:
            yield (*place, name), field


def limits(notes):
    """The limits that annotations set, by name: ge, gt, le, lt, pattern, …"""
    found = {}
    for note in notes:
        for each in getattr(note, "metadata", None) or [note]:
            named = getattr(each, "__dict__", None) or {
                key: getattr(each, key) for key in ("ge", "gt", "le", "lt") if hasattr(each, key)
            }
            found |= {key: value for key, value in named.items() if value is not None}
    return found


LEAVES = sorted(leaves(params.Params), key=lambda each: each[0])
CHECKED_BY_CODE = {
    "fx.windows.train_end": "2011-02-30",
    "video.acquire.group_pattern": "(",
    "training.conditions": ["none", "anything"],
}
"""Texts that code of the schema checks and no pattern can, each with a value that must be refused."""


@pytest.mark.parametrize(("place", "field"), [pytest.param(*leaf, id=".".join(leaf[0])) for leaf in LEAVES])
def test_every_parameter_has_a_meaning_a_unit_and_a_finite_range(place, field):
    name = ".".join(place)
    kinds = members(field.annotation)
    assert len(field.description or "") > 5, f"{name}: no description"
    for kind, notes in kinds:
        limit = limits([*field.metadata, *notes])
        if kind in (int, float):
            assert re.search(r"\[[^\]]+\]", field.description), f"{name}: no [unit] in {field.description!r}"
            low, high = limit.get("ge", limit.get("gt")), limit.get("le", limit.get("lt"))
            assert math.isfinite(math.nan if low is None else low), f"{name}: no lower bound"
            assert math.isfinite(math.nan if high is None else high), f"{name}: no upper bound"
            for beyond in (low - 1, high + 1, 10**40, -(10**40)):
                assert refused(place, float(beyond) if kind is float else beyond), f"{name}: {beyond} passes"
        elif kind is str and name in CHECKED_BY_CODE:
            assert refused(place, CHECKED_BY_CODE[name]), name
        elif kind is str:
            assert "pattern" in limit, f"{name}: any text passes"
            assert refused(place, "\0"), name
        else:
            assert kind in (bool, type(None)) or typing.get_origin(kind) is typing.Literal, f"{name}: {kind}"
            if kind is not type(None):
                assert refused(place, "no such choice"), name


def refused(place, value):
    """Whether a value is refused, and the message names its parameter."""
    content = params.Params().model_dump()
    if place[0] == "tasks":
        content = {key: value for key, value in content.items() if key not in params.DERIVED}
    node = content
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = [value] if isinstance(node[place[-1]], list) and not isinstance(value, list) else value
    try:
        params.validate(content)
    except params.ParamsError as error:
        return ".".join(place) in str(error)
    return False


def test_no_parameter_is_left_out_of_that_walk():
    def names(content, place=()):
        for key, value in content.items():
            yield from names(value, (*place, key)) if isinstance(value, dict) else [(*place, key)]

    assert sorted(names(params.Params().model_dump())) == [place for place, _ in LEAVES]


def test_a_section_leaf_by_leaf_is_told_once(project):
    text = params.render(params.profile("demo"))
    assert text.count("# noise standard deviation") == 6
    assert "of the factor" not in text


def test_what_is_rendered_reads_back(project):
    made = params.profile("fx")
    (project / "params.yaml").write_text(params.render(made))
    assert params.load() == made


NONE = {"additive": 0.0, "multiplicative": 0.0}
STEEP = {"output": NONE, "hidden": NONE | {"multiplicative": 11.0}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, r"trainig: unknown parameter; did you mean 'training'\?"),
        ({"fx": {"windows": {"windw": 4}}}, r"fx\.windows\.windw: unknown parameter; did you mean 'window'\?"),
        ({"train": {"fx": {"lstm": {"learning_rat": 1}}}}, "did you mean 'learning_rate'"),
        ({"train": {"fx": {"lstm": {"learning_rate": "fast"}}}}, "found 'fast'"),
        ({"train": {"fx": {"lstm": {"learning_rate": 0}}}}, "greater than or equal to"),
        ({"train": {"fx": {"lstm": {"learning_rate": 1e-300}}}}, r"lstm\.learning_rate: .*greater than or equal to"),
        ({"fx": {"windows": {"train_end": 10**40}}}, r"fx\.windows\.train_end: .*less than or equal to 10000000"),
        ({"fx": {"windows": {"train_end": -(10**40)}}}, r"fx\.windows\.train_end: .*greater than or equal to 0"),
        (
            {"fx": {"windows": {"train_end": "2011-02-30"}}},
            r"expected fx\.windows\.train_end .*day of the calendar.*found '2011-02-30'$",
        ),
        ({"video": {"acquire": {"group_pattern": "(x"}}}, r"expected video\.acquire\.group_pattern .*'\(x' \(missing"),
        ({"video": {"acquire": {"group_pattern": "x"}}}, r"expected video\.acquire\.group_pattern .*'x' \(no group"),
        ({"video": {"acquire": {"folder": "a\0b"}}}, r"video\.acquire\.folder: .*match pattern"),
        ({"train": {"fx": {"gru": {"decay": STEEP}}}}, r"train\.fx\.gru\.decay: .*exponents of at most 10, found 11"),
        ({"train": {"fx": {"lstm": {"learning_rate": float("nan")}}}}, "finite"),
        ({"train": {"fx": {"lstm": {"epochs": 100, "max_epochs": 50}}}}, "max_epochs >= epochs"),
        ({"train": {"fx": {"gru": {"optimiser": "adam", "momentum": 0.9}}}}, "momentum 0"),
        ({"training": {"conditions": ["none", "nem-additiv-both"]}}, "did you mean 'nem-additive-both'"),
        ({"training": {"conditions": ["nem-additive-both"]}}, "expected the condition 'none'"),
        ({"training": {"conditions": ["none", "none"]}}, "once"),
        ({"training": {"repetitions": True}}, "valid integer"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"tasks": ["fx", "fx"]}, "each name once"),
        ({"cells": ["gru", "gru"]}, "each name once"),
        ({"tasks": ["video"], "sources": ["fx"], "video_sets": []}, "expected 'video' among sources"),
        ({"video_sets": []}, "exactly when"),
        ({"fx": []}, "valid dictionary"),
        ({"fx": None}, "valid dictionary"),
    ],
)
def test_every_fault_is_named(change, message):
    with pytest.raises(params.ParamsError, match=message):
        params.validate(change)


def test_all_faults_are_listed_at_once():
    with pytest.raises(params.ParamsError, match=r"2 fault\(s\)"):
        params.validate({"sed": 1, "training": {"probe": 0}})


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "seed: 1\nseed: 2",
        "- 1",
        "1: 2",
        "seed: !!python/object/apply:os.system ['true']",
        "!!python/object/apply:os.system ['true']",
        "\0",
        "seed: \u202e1",
        "seed: １",
        "a: &a [*a]",
        "? [1]\n: 2",
        "seed: !!int ''",
        "seed: !!bool x",
        "seed: !!timestamp x",
        "seed: 0x" + "f" * 20_000,
        "seed: " + "9" * 4_000,
        "[" * 50_000,
        "? " * 20_000,
        '"\\uD800": 1',
        "%YAML 9.9\n---\nseed: 1",
        "seed: 1\n---\nseed: 1",
        "fx: &a {windows: *a}",
        "fx: {windows: {train_end: 2011-02-30}}",
        "fx: {windows: {train_end: 2011-02-09t12:00:00}}",
        "seed: 1e400",
        "seed: .inf",
    ],
)
def test_hostile_yaml_is_an_error_and_nothing_else(project, text):
    (project / "params.yaml").write_text(text)
    with pytest.raises(params.ParamsError):
        params.load()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("first", "rest"), [("[x, x]", "[{0}, {0}]"), ("{{x: 1}}", "{{<<: [{0}, {0}]}}")])
@pytest.mark.parametrize("last", ["", "seed: *a59", "tasks: *a59", "train: *a59"])
def test_a_bomb_of_aliases_is_refused_in_time(project, first, rest, last):
    lines = [f"a{k}: &a{k} " + (rest if k else first).format(f"*a{k - 1}") for k in range(60)]
    (project / "params.yaml").write_text("\n".join([*lines, last]))
    with pytest.raises(params.ParamsError, match=r"alias \*a0 in line 2"):
        params.load()


def test_a_date_needs_no_quotes(project):
    (project / "params.yaml").write_text("fx: {windows: {train_end: 2011-02-09}}")
    assert params.load().fx.windows.train_end == "2011-02-09"


def test_messages_are_short_and_obey_nobody(project):
    (project / "params.yaml").write_text('"\\e[2J\\u202Ex": 1')
    with pytest.raises(params.ParamsError, match=r"\\x1b\[2J\\u202ex: unknown"):
        params.load()
    with pytest.raises(params.ParamsError, match=r"50 fault\(s\)") as caught:
        params.validate({f"{k}" + "x" * 10_000: 1 for k in range(50)})
    assert "and 30 more" in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_missing_and_huge_files(project, monkeypatch):
    with pytest.raises(params.ParamsError, match="project's root"):
        params.load()
    (project / "params.yaml").write_text("seed: 1\n" + "#" * params.MAX_BYTES)
    with pytest.raises(params.ParamsError, match="under"):
        params.load()


def test_composing_keeps_hand_edits(project, capsys):
    assert params.main(["compose", "demo"]) == 0
    assert params.compose("demo") is False
    assert params.main(["compose", "fx"]) == 0
    assert params.main(["check"]) == 0
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("seed: 1", "seed: 2"))
    assert params.main(["compose", "demo"]) == 1
    assert "edits that would be lost" in capsys.readouterr().err
    assert "seed: 2" in file.read_text()
    assert params.main(["compose", "demo", "--force"]) == 0
    assert params.main(["compose", "nothing"]) == 1
    assert "expected one of the profiles" in capsys.readouterr().err


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=20,
    )
)
def test_any_content_is_parameters_or_a_params_error(content):
    if not isinstance(content, dict):
        content = {"fx": content}
    try:
        params.validate(content)
    except params.ParamsError as error:
        assert "fault" in str(error)


@pytest.mark.parametrize("place", ["data/raw/video/vectors.parquet", "./data/fx/../raw/video", "data/results"])
def test_the_users_data_are_no_output_that_dvc_removes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for changes in ({"vectors_path": place}, {"folder": place}, {"vectors_path": str(tmp_path / place)}):
        with pytest.raises(params.ParamsError, match=r"expected a place outside data.*DVC removes"):
            params.validate({"video": {"acquire": changes}})
    assert params.validate({"video": {"acquire": {"folder": "data/mine"}}}).video.acquire.folder == "data/mine"
