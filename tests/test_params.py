"""Parameters: every fault is found before any work starts, and named."""

import functools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline import params
from tests.conftest import ROOT, refused

pytestmark = pytest.mark.hostile


def test_the_committed_params_are_the_demo_profile_and_short(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "params.yaml").read_text()
    assert text == params.render(params.profile("demo"))
    assert len(text.splitlines()) <= 130
    assert max(map(len, text.splitlines())) <= 120
    for file in sorted((ROOT / "profiles").glob("*.yaml")):
        profile = params.profile(file.stem)
        assert params.validate(profile.model_dump(), whole=True) == profile


SCHEMA = params.Params.model_json_schema()
CHECKED_BY_CODE = {
    "fx.windows.train_end": "2011-02-30",
    "video.acquire.group_pattern": "(",
    "training.conditions": ["none", "anything"],
}
"""Texts that code of the schema checks and no pattern can, each with a value that must be refused."""


def leaves(node, place=()):
    node = SCHEMA["$defs"].get(node.get("$ref", "").rpartition("/")[2], node)
    sections_of = node.get("additionalProperties")
    if isinstance(sections_of, dict) and "$ref" in sections_of:
        node = {"properties": dict.fromkeys(("fx", "video"), sections_of)}
    for name, inner in node.get("properties", {}).items():
        yield from leaves(inner, (*place, name))
    if "properties" not in node and place[-1] not in ("lstm", "gru"):  # which hold some of the keys of a network
        yield pytest.param(place, node, id=".".join(place))


def kinds(node):
    """The kinds of values that a parameter may have: those of a union, and of the items of lists and mappings."""
    inner = [*node.get("anyOf", []), *(node[key] for key in ("items", "additionalProperties") if key in node)]
    return [kind for part in inner for kind in kinds(part)] if inner else [node]


@pytest.mark.parametrize(("place", "node"), list(leaves(SCHEMA)))
def test_every_parameter_has_a_meaning_a_unit_and_a_finite_range(place, node):
    told = node.get("description", "")
    assert len(told) > 5
    for kind in kinds(node):
        beyond = [CHECKED_BY_CODE.get(".".join(place), "\0")]
        if kind["type"] in ("integer", "number"):
            assert re.search(r"\[[^\]]+\]", told), f"no [unit] in {told!r}"
            low, high = (
                kind.get("minimum", kind.get("exclusiveMinimum")),
                kind.get("maximum", kind.get("exclusiveMaximum")),
            )
            beyond = [low - 1, high + 1, 10**40, -(10**40)]
            beyond = [float(value) for value in beyond] if kind["type"] == "number" else beyond
        elif place[-1] not in ("tasks", "cells", "splits"):
            assert set(kind.get("enum", ())) <= set(re.split(r"[ ,:]+", told)), "tell all choices"
        assert kind["type"] == "null" or all(turned_down(place, value) for value in beyond), beyond


def turned_down(place, value):
    """Whether a value is refused, and the message names its parameter."""
    content = params.Params().model_dump()
    node = functools.reduce(dict.get, place[:-1], content)
    old = node[place[-1]]
    if isinstance(old, dict):
        value = {"sgd": [value]}
    node[place[-1]] = [value] if isinstance(old, list) and not isinstance(value, list) else value
    try:
        params.validate(content)
    except params.ParamsError as error:
        return ".".join(place) in str(error)
    return False


def test_a_meaning_is_told_once_at_the_end_of_its_line(project):
    text = params.render(params.profile("demo"))
    assert text.count("# J, size of the hidden layer") == 1
    assert not [line for line in text.splitlines()[1:] if line.lstrip().startswith("#")]
    for train_end, read in (("1980 ", 1980), ("2011-02-09 ", "2011-02-09")):  # a date needs no quotes
        (project / "params.yaml").write_text(text.replace("train_end: 1980 ", f"train_end: {train_end}"))
        windows = params.profile("demo").fx.windows.model_copy(update={"train_end": read})
        assert params.load().fx.windows == windows


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


def at(place, value):
    for key in reversed(place.split(".")):
        value = {key: value}
    return value


STEEP = at("noise.hidden.multiplicative.decay", 11.0)
ADAM = {"optimiser": "adam", "momentum": 0.9}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("trainig", {}, r"trainig: unknown parameter; did you mean 'training'\?"),
        ("fx.windows.windw", 4, r"fx\.windows\.windw: unknown parameter; did you mean 'window'\?"),
        ("fx.windows.train_end", "2011-02-30", r"d: expected a day index or date.*found '2011-02-30'; correct it$"),
        ("train.fx.lstm.learning_rate", 1e-300, r"lstm\.learning_rate: .*greater than or equal to"),
        ("train.fx.lstm.learning_rate", float("nan"), "finite"),
        ("train.fx.lstm.noise", 3, r"train\.fx\.lstm\.noise: .*found 3"),
        ("train.fx.gru.epochs", 200, r"train\.fx\.gru: .*max_epochs >= epochs = 200, found 150"),
        ("train.fx.gru", ADAM, "momentum 0"),
        ("train.fx", ADAM | {"lstm": {"optimiser": "sgd"}}, r"train\.fx: expected momentum 0"),
        ("train.fx.gru", STEEP, r"train\.fx\.gru\.noise\.hidden\.multiplicative\.decay: .*to 10; found 11"),
        ("train.video.gru.lstm", {}, r"train\.video\.gru\.lstm: unknown parameter"),
        ("video.acquire.group_pattern", "(x", r"acquire\.group_pattern: expected .*'\(x' \(missing"),
        ("video.acquire.group_pattern", "x", r"acquire\.group_pattern: expected .*'x' \(no group"),
        ("video.clips", {"leave_group_out": 1, "test_groups": [2]}, "found both"),
        ("study.tasks.fx.rates", {"adam": [0.1]}, r"study\.tasks\.fx\.rates: .*rate of sgd"),
        ("study.tasks.fx.strid", 1, r"study\.tasks\.fx\.strid: unknown parameter; did you mean 'stride'"),
        ("training.conditions", ["none", "nem-additiv-both"], "did you mean 'nem-additive-both'"),
        ("training.conditions", ["nem-additive-both"], "expected the condition 'none'"),
        ("training.conditions", ["none", "none"], "once"),
        ("training.repetitions", True, "valid integer"),
        ("tasks", ["fx", "fx"], "each name once"),
        ("tasks", ["video_groups"], r"tasks\.0: .*'fx', 'video' or 'own'; found 'video_groups'"),
    ],
)
def test_every_fault_is_named(place, value, message):
    refused(params.ParamsError, message, params.validate, at(place, value))


def bomb(first, rest):
    """Aliases of aliases: 2^60 values."""
    lines = [f"a{k}: &a{k} " + (rest if k else first).format(f"*a{k - 1}") for k in range(60)]
    return "\n".join([*lines, "train: *a59"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text",
    [
        bomb("[x, x]", "[{0}, {0}]"), bomb("{{x: 1}}", "{{<<: [{0}, {0}]}}"),
        "a: [1", "seed: 1\nseed: 2", "- 1", "1: 2", "\0", "seed: \u202e1", "seed: １", "a: &a [*a]", "? [1]\n: 2",
        "seed: !!python/object/apply:os.system ['true']", "!!python/object/apply:os.system ['true']", "seed: !!int ''",
        "seed: !!bool x", "seed: !!timestamp x", "seed: 0x" + "f" * 20_000, "seed: " + "9" * 4_000, "[" * 50_000,
        "? " * 20_000, '"\\uD800": 1', "%YAML 9.9\n---\nseed: 1", "seed: 1\n---\nseed: 1", "seed: 1e400", "seed: .inf",
        "fx: &a {windows: *a}", "fx: {windows: {train_end: 2011-02-30}}",
        "fx: {windows: {train_end: 2011-02-09t12:00:00}}", "".join(f"a{k}: 1\n" for k in range(6_000)),
        "seed: '" + "1" * 60_000 + "'", "".join(f"&a{k} " for k in range(8_000)), "seed: " + "!a " * 20_000,
        "tasks: [" + "fx, " * 16_000 + "]", "a: &a [x]\n" + "seed: [" + "*a, " * 16_000 + "]", "#" * (1 << 16) + "#",
    ],
)  # fmt: skip
def test_hostile_yaml_is_an_error_and_nothing_else(project, text):
    (project / "params.yaml").write_text(text)
    with pytest.raises(params.ParamsError) as caught:
        params.load()
    assert len(str(caught.value)) < 5000


def test_messages_are_short_and_obey_nobody(project):
    refused(params.ParamsError, "project's root", params.load)
    (project / "params.yaml").write_text('"\\e[2J\\u202Ex": 1')
    refused(params.ParamsError, r"\\x1b\[2J\\u202ex: unknown", params.load)
    with pytest.raises(params.ParamsError, match=r"50 fault\(s\)") as caught:
        params.validate({f"{k}" + "x" * 10_000: 1 for k in range(50)})
    assert "and 30 more" in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_a_density_of_a_task_is_that_of_both_cells():
    content, wanted = params.Params().model_dump(), {"output": "cauchy", "hidden": "laplace"}
    for task in ("fx", "video", "own"):
        content["train"][task]["noise"]["density"] = wanted
        for cell in ("lstm", "gru"):
            assert params.validate(content).train.of(task, cell)["noise"]["density"] == wanted


def test_composing_keeps_hand_edits(project, capsys):
    assert params.main(["compose", "demo"]) == 0
    assert params.compose("demo") is False
    assert params.main(["compose", "fx"]) == 0
    assert params.main(["check"]) == 0
    file = project / "params.yaml"
    file.write_text(mine := file.read_text().replace("seed: 1", "seed: 2"))
    assert params.main(["compose", "demo"]) == 1
    assert file.read_text() == mine
    assert "edits that would be lost" in capsys.readouterr().err
    assert params.main(["compose", "demo", "--force"]) == 0
    assert params.main(["compose", "nothing"]) == 1
    assert "expected one of the profiles" in capsys.readouterr().err


def test_a_missing_parameter_is_named_with_the_line_that_adds_it(project, capsys):
    gone = ("scaling:", "momentum:", "evaluate:", "confidence:", "bootstrap:")
    text = params.render(params.profile("demo")).replace(" momentum: 0.0,", "")  # where all stands on one line
    kept = [line for line in text.split("\n") if not line.lstrip().startswith(gone)]
    (project / "params.yaml").write_text("\n".join(kept))
    assert params.main(["check"]) == 1
    told = capsys.readouterr().err
    for name in ("fx.windows.scaling: missing; add scaling: z-score", "train.fx.momentum", "train.video.momentum"):
        assert f"  {name}" in told
    assert "  evaluate: missing; add evaluate: {confidence: 0.95, bootstrap: 10000}" in told


@pytest.mark.parametrize("place", ["data/raw/video/mine.parquet", "./data/fx/../raw/video", "data/results"])
def test_the_users_data_are_no_output_that_dvc_removes(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for changes in ({"features_path": place}, {"folder": place}, {"features_path": str(tmp_path / place)}):
        words = r"expected a place outside data.*DVC removes"
        refused(params.ParamsError, words, params.validate, {"video": {"acquire": changes}})
    assert params.validate({"video": {"acquire": {"folder": "data/mine"}}}).video.acquire.folder == "data/mine"
