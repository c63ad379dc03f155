"""Settings of a cell come from what all share, what the task says, and what differs for the cell."""

import copy
import json
from functools import reduce
from operator import getitem

import pytest

from pipeline.training import settings

SHARED = {
    "repetitions": 3, "device": "auto", "checkpoint_every": 25,
    "conditions": ["none", "nem-additive-output"], "hidden_injection": "backward", "latent": "sampled",
    "granularity": "time", "gate_clamp": True, "output_delta": "literal", "first_target": None, "probe": 9,
    "noise_benefit": True,
}  # fmt: skip
STRENGTH = {"sigma": 0.5, "decay": 1}
NOISE = {place: {mode: dict(STRENGTH) for mode in settings.MODES} for place in settings.PLACES}
NETWORK = {
    "hidden": 50, "epochs": 4, "max_epochs": 6, "batch_size": 64, "optimiser": "adam", "learning_rate": 0.003,
    "momentum": 0.0, "noise": NOISE,
    "lstm": {}, "gru": {"hidden": 20, "momentum": None, "noise": {"hidden": {"additive": {"sigma": 0.1}}}},
}  # fmt: skip


def test_a_cell_differs_in_what_it_says_and_nothing_else_and_is_a_plain_dictionary_or_a_key():
    lstm, gru = (settings.of(SHARED, NETWORK, cell) for cell in ("lstm", "gru"))
    assert (lstm.cell, lstm.hidden, gru.hidden, gru.momentum) == ("lstm", 50, 20, 0.0)
    assert lstm.noise.as_dict() == NOISE
    assert gru.noise.as_dict()["hidden"] == {"additive": {"sigma": 0.1, "decay": 1}, "multiplicative": STRENGTH}
    assert (lstm.conditions, lstm.latent, lstm.probe) == (("none", "nem-additive-output"), "sampled", 9)
    assert hash(lstm) == hash(settings.of(copy.deepcopy(SHARED), copy.deepcopy(NETWORK), "lstm"))
    plain = json.loads(json.dumps(lstm.as_dict()))
    assert plain == lstm.as_dict()
    assert settings.of({}, {name: value for name, value in plain.items() if name != "cell"}, "lstm") == lstm


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("hidden", 0, "hidden"), ("hidden", True, "hidden"), ("epochs", 2.5, "epochs"), ("max_epochs", 3, "max_epochs"),
        ("optimiser", "lion", "optimiser"), ("learning_rate", "fast", "learning_rate"),
        ("learning_rate", float("nan"), "learning_rate"), ("momentum", -1, "momentum"), ("noise", {}, "noise.output"),
        ("noise.hidden.additive.sigma", -1.0, r"noise\.hidden\.additive\.sigma"),
        ("noise.output.additive.decay", None, r"noise\.output\.additive\.decay"),
        ("batch_size", None, "batch_size"), ("granularity", "all", "granularity"), ("conditions", [], "conditions"),
        ("conditions", ["none", "none"], "conditions"), ("first_target", 0, "first_target"),
        ("output_delta", "b21", "output_delta"), ("one_draw_per", "day", "one_draw_per"),
        ("output_test", "49", "output_test"),
        ("hiden", 3, "network, found .hiden"), ("cell", "rnn", "cell to be lstm or gru"),
    ],
)  # fmt: skip
def test_every_fault_names_its_parameter(place, value, words):
    network = copy.deepcopy(NETWORK)
    *parents, last = place.split(".")
    if place != "cell":
        reduce(getitem, parents, network)[last] = value
    with pytest.raises(ValueError, match=f"expected .*{words}.*"):
        settings.of(SHARED, network, "lstm" if place != "cell" else value)
