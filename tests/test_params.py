"""Parameters: every fault is found before any work starts, and named."""

import math
import re
import types
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from ruamel.yaml import YAML

from pipeline import params, sections
from tests.conftest import ROOT

pytestmark = pytest.mark.hostile


def test_the_committed_params_are_the_demo_profile_on_one_screen(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "params.yaml").read_text()
    assert text == params.render(params.profile("demo"))
    assert len(text.splitlines()) <= 130
    assert max(map(len, text.splitlines())) <= 120
    for file in sorted((ROOT / "profiles").glob("*.yaml")):
        profile = params.profile(file.stem)
        assert params.validate(profile.model_dump(), whole=True) == profile


def members(annotation):
    """The types that a value may have, with their limits: those of a union, and of the items of lists and mappings."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for part in typing.get_args(annotation) for member in members(part)]
    if typing.get_origin(annotation) in (list, dict):
        return members(typing.get_args(annotation)[-1])
    if typing.get_origin(annotation) is typing.Annotated:
        kind, *notes = typing.get_args(annotation)
        return [(member, [*notes, *more]) for member, more in members(kind)]
    return [(annotation, [])]


def leaves(section, place=()):
    """Every parameter below a section, with its field."""
    for name, field in section.model_fields.items():
        kinds = [kind for kind, _ in members(field.annotation)]
        parts = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if parts and typing.get_origin(field.annotation) is dict:
            for key in typing.get_args(typing.get_args(field.annotation)[0]):
                yield from leaves(parts[0], (*place, name, key))
        elif parts:
            yield from leaves(parts[0], (*place, name))
        elif name not in section.partial:
            yield (*place, name), field


def limits(notes):
    """The limits that annotations set, by name: ge, gt, le, lt, pattern, …"""
    named = {}
    for note in (part for outer in notes for part in getattr(outer, "metadata", None) or [outer]):
        values = getattr(note, "__dict__", None) or {k: getattr(note, k) for k in LIMITS if hasattr(note, k)}
        named |= {key: value for key, value in values.items() if value is not None}
    return named


LIMITS = ("ge", "gt", "le", "lt")
LEAVES = sorted(leaves(params.Params), key=lambda leaf: leaf[0])
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
        elif typing.get_origin(kind) is typing.Literal:
            told = field.description.replace(",", " ").split() + field.description.replace(":", " ").split()
            several = place[-1] in ("tasks", "cells", "splits")
            assert several or set(typing.get_args(kind)) <= set(told), f"{name}: tell all choices"
            assert refused(place, "no such choice"), name
        elif kind is str and name in CHECKED_BY_CODE:
            assert refused(place, CHECKED_BY_CODE[name]), name
        elif kind is str:
            assert "pattern" in limit, f"{name}: any text passes"
            assert refused(place, "\0"), name
        else:
            assert kind in (bool, type(None)), f"{name}: {kind}"
            if kind is not type(None):
                assert refused(place, "no such choice"), name


def refused(place, value):
    """Whether a value is refused, and the message names its parameter."""
    content = params.Params().model_dump()
    node = content
    for part in place[:-1]:
        node = node[part]
    old = node[place[-1]]
    if isinstance(old, dict):
        value = {"sgd": [value]}
    node[place[-1]] = [value] if isinstance(old, list) and not isinstance(value, list) else value
    try:
        params.validate(content)
    except params.ParamsError as error:
        return ".".join(place) in str(error)
    return False


def test_no_parameter_is_left_out_of_that_walk():
    def names(content, place=()):
        for key, value in content.items():
            inner = isinstance(value, dict) and key not in ("rates", "noiseless")
            yield from names(value, (*place, key)) if inner else [(*place, key)]

    whole = params.Params().model_dump()
    for task in ("fx", "video"):
        del whole["train"][task]["lstm"], whole["train"][task]["gru"]
    assert sorted(names(whole)) == [place for place, _ in LEAVES]


def test_a_meaning_is_told_once_at_the_end_of_its_line(project):
    text = params.render(params.profile("demo"))
    assert text.count("# J, size of the hidden layer") == 1
    assert not [line for line in text.splitlines()[1:] if line.lstrip().startswith("#")]
    (project / "params.yaml").write_text(text)
    assert params.load() == params.profile("demo")


@given(st.text(max_size=8), st.floats(1e-12, 1e3), st.lists(st.integers(0, 9) | st.text(min_size=1, max_size=5)))
def test_what_is_rendered_reads_back(folder, rate, groups):
    """Whatever YAML would take for something else: numbers, dates, null, yes, colons, quotes, ends of lines, …"""
    content = params.Params().model_dump()
    content["train"]["fx"]["lstm"] = {"learning_rate": rate, "noise": {"hidden": {"additive": {"sigma": rate}}}}
    content["video"]["acquire"]["folder"] = folder or None
    content["video"]["clips"]["test_groups"] = groups or None
    try:
        chosen = params.validate(content)
    except params.ParamsError:
        return
    assert YAML(typ="safe").load(params.render(chosen)) == chosen.model_dump()


STEEP = {"noise": {"hidden": {"multiplicative": {"decay": 11.0}}}}


def fx(windows):
    return {"fx": {"windows": windows}}


def train(**network):
    return {"train": {"fx": network}}


def acquire(video):
    return {"video": {"acquire": video}}


def study(task):
    return {"study": {"tasks": {"fx": task}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, r"trainig: unknown parameter; did you mean 'training'\?"),
        (fx({"windw": 4}), r"fx\.windows\.windw: unknown parameter; did you mean 'window'\?"),
        (fx({"train_end": "2011-02-30"}), r"train_end: expected a day index or date.*found '2011-02-30'; correct it$"),
        (train(lstm={"learning_rat": 1}), "did you mean 'learning_rate'"),
        (train(lstm={"learning_rate": "fast"}), "found 'fast'"),
        (train(lstm={"learning_rate": 1e-300}), r"lstm\.learning_rate: .*greater than or equal to"),
        (train(lstm={"learning_rate": float("nan")}), "finite"),
        (train(lstm={"noise": 3}), r"train\.fx\.lstm\.noise: .*found 3"),
        (train(gru={"epochs": 200}), r"train\.fx\.gru: .*max_epochs >= epochs = 200, found 150"),
        (train(gru={"optimiser": "adam", "momentum": 0.9}), "momentum 0"),
        (train(optimiser="adam", momentum=0.5, lstm={"optimiser": "sgd"}), r"train\.fx: expected momentum 0"),
        (train(**STEEP), r"train\.fx\.noise\.hidden\.multiplicative\.decay: .*equal to 10; found 11"),
        (train(gru=STEEP), r"train\.fx\.gru\.noise\.hidden\.multiplicative\.decay: .*to 10; found 11"),
        ({"train": {"video": {"gru": {"lstm": {}}}}}, r"train\.video\.gru\.lstm: unknown parameter"),
        (acquire({"group_pattern": "(x"}), r"acquire\.group_pattern: expected .*'\(x' \(missing"),
        (acquire({"group_pattern": "x"}), r"acquire\.group_pattern: expected .*'x' \(no group"),
        ({"video": {"clips": {"splits": ["groups", "groups"]}}}, "each name once"),
        ({"video": {"clips": {"leave_group_out": 1, "test_groups": [2]}}}, "found both"),
        (study({"rates": {"adam": [0.1]}}), r"study\.tasks\.fx\.rates: .*rate of sgd"),
        (study({"strid": 1}), r"study\.tasks\.fx\.strid: unknown parameter; did you mean 'stride'"),
        ({"training": {"conditions": ["none", "nem-additiv-both"]}}, "did you mean 'nem-additive-both'"),
        ({"training": {"conditions": ["nem-additive-both"]}}, "expected the condition 'none'"),
        ({"training": {"conditions": ["none", "none"]}}, "once"),
        ({"training": {"repetitions": True}}, "valid integer"),
        ({"tasks": ["fx", "fx"]}, "each name once"),
        ({"cells": ["gru", "gru"]}, "each name once"),
        ({"tasks": []}, "at least 1 item"),
        ({"tasks": ["video_groups"]}, r"tasks\.0: .*'fx' or 'video'; found 'video_groups'"),
        ({"sources": ["fx"]}, "sources: unknown parameter"),
        ({"fx": None}, "valid dictionary"),
    ],
)
def test_every_fault_is_named(change, message):
    with pytest.raises(params.ParamsError, match=message):
        params.validate(change)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1", "seed: 1\nseed: 2", "- 1", "1: 2", "\0", "seed: \u202e1", "seed: １", "a: &a [*a]", "? [1]\n: 2",
        "seed: !!python/object/apply:os.system ['true']", "!!python/object/apply:os.system ['true']", "seed: !!int ''",
        "seed: !!bool x", "seed: !!timestamp x", "seed: 0x" + "f" * 20_000, "seed: " + "9" * 4_000, "[" * 50_000,
        "? " * 20_000, '"\\uD800": 1', "%YAML 9.9\n---\nseed: 1", "seed: 1\n---\nseed: 1", "seed: 1e400", "seed: .inf",
        "fx: &a {windows: *a}", "fx: {windows: {train_end: 2011-02-30}}",
        "fx: {windows: {train_end: 2011-02-09t12:00:00}}",
    ],
)  # fmt: skip
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
    text = params.render(params.profile("fx")).replace("train_end: 8000", "train_end: 2011-02-09")
    (project / "params.yaml").write_text(text)
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
    (project / "params.yaml").write_text("seed: 1\n" + "#" * sections.MAX_BYTES)
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


def test_a_missing_parameter_is_named_and_completed_without_touching_the_rest(project, capsys):
    file = project / "params.yaml"
    whole = params.render(params.profile("demo"))
    mine = whole.replace("seed: 1 ", "seed: 77 ").replace("# root of the seed tree [integer]", "# mine")
    gone = ("scaling:", "momentum:", "evaluate:", "confidence:", "bootstrap:")
    lines = [line for line in mine.splitlines() if not line.lstrip().startswith(gone)]
    file.write_text("\n".join(lines) + "\n")
    assert params.main(["check"]) == 1
    told = capsys.readouterr().err
    for name in ("fx.windows.scaling", "train.fx.momentum", "train.video.momentum", "evaluate"):
        assert f"  {name}: missing; `python -m pipeline.params complete` adds it" in told
    assert params.main(["complete"]) == 0
    assert "added fx.windows.scaling, train.fx.momentum, train.video.momentum, evaluate" in capsys.readouterr().out
    assert params.load() == params.profile("demo").model_copy(update={"seed": 77})
    assert "# mine" in file.read_text()
    assert set(lines) <= set(file.read_text().splitlines())
    before = file.read_text()
    assert params.main(["complete"]) == 0
    assert "added nothing" in capsys.readouterr().out
    assert file.read_text() == before
    file.write_text("sed: 1\n")
    assert params.main(["complete"]) == 1
    assert file.read_text() == "sed: 1\n"


def test_a_cell_has_the_tasks_network_with_its_own_values_laid_over_it():
    chosen = params.validate({"train": {"fx": {"hidden": 7, "gru": {"epochs": 3}, "lstm": {"hidden": 9}}}}).train
    assert (chosen.fx.of("lstm").hidden, chosen.fx.of("gru").hidden, chosen.fx.of("gru").epochs) == (9, 7, 3)
    assert chosen["fx"]["lstm"] == {"hidden": 9}
    tuned = params.Params().train.fx
    assert tuned.of("gru").noise.output.additive.sigma == 0.2
    assert tuned.of("lstm").noise == tuned.noise


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(SCALARS, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=20))
def test_any_content_is_parameters_or_a_params_error(content):
    try:
        params.validate(content if isinstance(content, dict) else {"fx": content})
    except params.ParamsError as error:
        assert "fault" in str(error)


@pytest.mark.parametrize("place", ["data/raw/video/mine.parquet", "./data/fx/../raw/video", "data/results"])
def test_the_users_data_are_no_output_that_dvc_removes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for changes in ({"features_path": place}, {"folder": place}, {"features_path": str(tmp_path / place)}):
        with pytest.raises(params.ParamsError, match=r"expected a place outside data.*DVC removes"):
            params.validate({"video": {"acquire": changes}})
    assert params.validate({"video": {"acquire": {"folder": "data/mine"}}}).video.acquire.folder == "data/mine"
