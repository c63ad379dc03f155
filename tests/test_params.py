"""Parameters: every fault is found before any work starts, and named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import params
from tests.conftest import ROOT


def test_the_committed_params_are_the_demo_profile():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        assert (ROOT / "params.yaml").read_text() == params.render(params.profile("demo"))
        for file in sorted((ROOT / "profiles").glob("*.yaml")):
            made = params.profile(file.stem)
            assert params.validate(made.model_dump()) == made


def test_what_is_rendered_reads_back(project):
    made = params.profile("fx")
    (project / "params.yaml").write_text(params.render(made))
    assert params.load() == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainig": {}}, r"trainig: unknown parameter; did you mean 'training'\?"),
        ({"fx": {"windows": {"windw": 4}}}, r"fx\.windows\.windw: unknown parameter; did you mean 'window'\?"),
        ({"train": {"fx": {"lstm": {"learning_rat": 1}}}}, "did you mean 'learning_rate'"),
        ({"train": {"fx": {"lstm": {"learning_rate": "fast"}}}}, "found 'fast'"),
        ({"train": {"fx": {"lstm": {"learning_rate": 0}}}}, "greater than 0"),
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
