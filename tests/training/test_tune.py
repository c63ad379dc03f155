"""The search reads training days only and chooses what it says it chooses."""

import numpy as np

from pipeline import params, paths
from pipeline.fx import rates, synthetic
from pipeline.training import tune


def small(monkeypatch):
    content = params.Params(sources=["fx"], video_sets=[], tasks=["fx"]).model_dump()
    content["fx"]["windows"]["train_end"] = 90
    for cell in ("lstm", "gru"):
        content["train"]["fx"][cell] |= {"hidden": 3, "epochs": 2, "max_epochs": 2, "batch_size": 32}
    monkeypatch.setattr(tune, "OPTIMISERS", (("sgd", 0.1, 0.0), ("adam", 0.01, 0.0)))
    monkeypatch.setattr(tune, "SIGMAS", (0.1, 0.3))
    monkeypatch.setattr(tune, "DECAYS", (0.0,))
    monkeypatch.setenv("NEM_EXECUTOR", "serial")
    return params.validate(content)


def test_test_days_change_nothing_and_the_best_is_chosen(project, monkeypatch):
    settings, series = small(monkeypatch), synthetic.generate(120, 1)
    rates.write(series, paths.FX_RATES)
    chosen, noiseless, noisy = tune.tune_fx(settings)
    values = series.values.copy()
    values[91:] *= np.random.default_rng(1).uniform(0.1, 10, (29, 1))
    rates.write(rates.Rates(series.dates, values), paths.FX_RATES)
    again, noiseless_again, noisy_again = tune.tune_fx(settings)
    assert chosen == again
    assert noiseless.equals(noiseless_again)
    assert noisy.equals(noisy_again)
    scaling = chosen["fx"]["windows"]["scaling"]
    for cell in ("lstm", "gru"):
        rows = noiseless[(noiseless.cell == cell) & (noiseless.scaling == scaling)]
        best = rows.loc[rows.validation_mse.idxmin()]
        picked = chosen["train"]["fx"][cell]
        assert picked["optimiser"] == best.optimiser
        assert picked["learning_rate"] == best.learning_rate
        rows = noisy[(noisy.cell == cell) & (noisy.condition == "nem-additive-hidden")]
        assert picked["sigma"]["hidden"]["additive"] == rows.loc[rows.validation_mse.idxmin()].sigma
    assert params.validate(params._merge(settings.model_dump(), chosen))
