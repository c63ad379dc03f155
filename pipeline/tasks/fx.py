"""The exchange rate: naive forecasts that any network has to beat, the test that says whether it does, Figures 10-14.

The forecasts look one day ahead with the true past at hand, as the networks do, and are fitted on training days only.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nem.conditions import PLACES, Mode, Place
from pipeline.common import paths, records
from pipeline.evaluation import style, tables
from pipeline.evaluation.metrics import predicted
from pipeline.evaluation.paper import PaperTable
from pipeline.evaluation.statistics import Bootstrap, Floats
from pipeline.evaluation.style import Picture
from pipeline.evaluation.task import Evidence, Outcome, Task
from pipeline.fx import rates, windows
from pipeline.fx.windows import Windows

if TYPE_CHECKING:
    from pipeline.params import Params

AR_LAGS = 4
TABLES = (
    PaperTable(5, "fx", "lstm", "squared_error", 2.087,
               (1.689, 2.465, 2.988, 2.310, 1.756, 2.359), (1.490, 1.636, 1.059, 1.170, 1.191, 1.147)),
    PaperTable(6, "fx", "lstm", "speed_up", 0, (-24, -12, -24, -11, -24, -11), (20, 36, 38, 31, 30, 29)),
    PaperTable(7, "fx", "gru", "squared_error", 1.508,
               (1.566, 1.463, 1.461, 1.558, 1.483, 1.461), (1.425, 1.362, 1.280, 1.422, 1.161, 1.151)),
    PaperTable(8, "fx", "gru", "speed_up", 0, (-10, 10, 4, -10, 18, 22), (28, 27, 32, 18, 36, 37)),
)  # fmt: skip
CURVES: dict[str, tuple[str, Mode, tuple[Place, ...]]] = {
    "figure_12": ("lstm", "additive", PLACES),
    "figure_13": ("lstm", "multiplicative", PLACES),
    "figure_14": ("gru", "additive", PLACES),
    "figure_14_multiplicative": ("gru", "multiplicative", PLACES),
}


def autoregression(data: Windows) -> Floats:
    """Return the forecasts of a linear AR(4), fitted by least squares on training days; too few: a ``ValueError``."""
    import statsmodels.api as sm  # takes seconds to import

    lags = AR_LAGS
    series = np.concatenate([data.last_price_raw[:1], data.target_raw])
    lagged = np.stack([series[lags - k - 1 : len(series) - k - 1] for k in range(lags)], 1)
    split = data.split[lags - 1 :]
    train, test = np.isin(split, ("train", "validation")), split == "test"
    if (found := int(train.sum())) <= lags + 1:
        cure = "move fx.windows.train_end to a later day"
        raise ValueError(f"expected more than {lags + 1} training windows for AR({lags}), found {found}; {cure}")
    design = sm.add_constant(lagged, has_constant="add")
    fitted = sm.OLS(series[lags:][train], design[train]).fit()
    return np.asarray(fitted.predict(design[test]), np.float64)


def forecasts(data: Windows) -> dict[str, Floats]:
    """Return forecasts of the test days [unit of the rates]: yesterday's price, that plus the mean change, AR."""
    yesterday = data.last_price_raw[data.where("test")]
    change = (data.target_raw - data.last_price_raw)[data.where("train", "validation")].mean()
    return {"persistence": yesterday, "drift": yesterday + change, f"ar{AR_LAGS}": autoregression(data)}


def diebold_mariano(loss: Floats, reference: Floats) -> tuple[float, float]:
    """Test whether two forecasts of one day ahead lose the same on average (Diebold & Mariano 1995).

    The mean loss differential is regressed on a constant with a Newey-West covariance (statsmodels), with the
    small-sample factor and t distribution of Harvey, Leybourne & Newbold (1997). Returned are, for squared errors
    ``(N,)``, the statistic, positive where the first loses more, and the two-sided p-value. A ``ValueError`` refuses
    fewer than 8 days, or different lengths.
    """
    import statsmodels.api as sm  # takes seconds to import

    if loss.shape != reference.shape or len(loss) < 8:
        found = f"found {loss.shape} and {reference.shape}; compare forecasts of the same days, and of more of them"
        raise ValueError(f"expected two loss series of equal length >= 8, {found}")
    n, differential = len(loss), loss - reference
    if np.ptp(differential) == 0:
        equal = differential[0] == 0
        return 0.0 if equal else float(np.sign(differential[0]) * np.inf), float(equal)
    lags = {"maxlags": int(n ** (1 / 3)), "use_correction": True}
    fit = sm.OLS(differential, np.ones(n)).fit(cov_type="HAC", cov_kwds=lags, use_t=True)
    return float(fit.tvalues[0]), float(fit.pvalues[0])


def read(evidence: Evidence) -> Windows:
    """Read the windows in raw units; a ``ValueError`` says that they are damaged, or not of what was trained on."""
    file, test = evidence.folder / windows.FILE, evidence.dataset.test
    data = windows.load(file)
    side = data.where("test")
    scaled = (data.target_raw - data.base_raw)[side] - evidence.dataset.target_offset
    scaled /= evidence.dataset.target_scale
    same = np.array_equal(data.day_index[side], test.rows.numpy())
    if not same or not np.array_equal(scaled.astype(np.float32), test.targets[:, 0].numpy()):
        raise ValueError(f"expected the test days of the sequences in {file}, found others; run `dvc repro -f windows`")
    return data


def prices(outcome: Outcome, condition: str, data: Windows) -> list[Floats]:
    """Return the prices of the test days that a condition's networks forecast, by repetition [unit of the rates]."""
    return [data.base_raw[data.where("test")] + values for values in predicted(outcome.run, condition).values()]


def references(evidence: Evidence) -> dict[str, float]:
    """Return the mean squared errors of the naive forecasts, in squared units of the rates."""
    data = read(evidence)
    truth = data.target_raw[data.where("test")]
    return {name: float(((forecast - truth) ** 2).mean()) for name, forecast in forecasts(data).items()}


def comparisons(outcome: Outcome, data: Windows) -> pd.DataFrame:
    """Compare every condition (its squared errors, averaged over repetitions) with every naive forecast."""
    truth, rows = data.target_raw[data.where("test")], []
    naive = {name: (forecast - truth) ** 2 for name, forecast in forecasts(data).items()}
    for condition in outcome.run.conditions:
        errors = [(values - truth) ** 2 for values in prices(outcome, condition, data)]
        for name, reference in naive.items() if errors else ():
            loss = np.mean(errors, 0)
            ours, theirs = float(loss.mean()), float(reference.mean())
            rows.append((condition, name, ours, theirs, 1.0 - ours / theirs, *diebold_mariano(loss, reference)))
    names = ["condition", "reference", "mse", "reference_mse", "skill", "dm_statistic", "dm_p_value"]
    return pd.DataFrame(rows, columns=names)


def draw(outcome: Outcome) -> list[Picture]:
    """Draw an LSTM's predictions and errors on the test days for additive NEM noise (Figure 11)."""
    if outcome.run.cell != "lstm":
        return []
    data = read(outcome.evidence)
    test = data.where("test")
    days, truth = data.day_index[test], data.target_raw[test]
    drawn, (above, below) = style.figure(1, 2, width=style.WIDTH, height=2.7)
    yesterday = data.last_price_raw[test] - truth
    off = {"yesterday's price": np.abs(yesterday).mean()}
    above.plot(days, truth, color="black", linewidth=1.2, label="Actual")
    for condition in ("none", *(f"nem-additive-{place}" for place in PLACES)):
        predictions = prices(outcome, condition, data)
        if predictions:
            mean = np.mean(predictions, 0)
            above.plot(days, mean, linewidth=0.9, label=condition)
            below.plot(days, mean - truth, linewidth=0.7, label=condition)
            off[style.words(condition)] = np.abs(mean - truth).mean()
    below.plot(days, yesterday, color="#999999", linewidth=0.5, label="Yesterday's price", zorder=0)
    above.set_title(f"{outcome.title} predictions, mean over {outcome.run.repetitions} repetitions")
    above.set_ylabel("Rate")
    below.set(xlabel="Day", ylabel="Prediction − actual")
    for panel in (above, below):
        panel.legend(ncols=2)
    told = ", ".join(f"{name} {error:.3g}" for name, error in off.items())
    seen = f"{len(days)} test days with rates of {truth.min():.4g} to {truth.max():.4g}; mean absolute error: {told}"
    caption = f"{outcome.figure(11)}LSTM predictions and their errors on the test days"
    return [style.picture(drawn, outcome.file(11, "predictions"), caption, seen)]


def conclude(outcomes: Sequence[Outcome], bootstrap: Bootstrap) -> list[Picture]:
    """Write the comparisons with the naive forecasts; draw the series with its training and test days (Figure 10)."""
    evidence = outcomes[0].evidence
    data, series = read(evidence), rates.read(rates.RATES)
    tables.write_stack(outcomes, [comparisons(outcome, data) for outcome in outcomes], "forecast_comparisons")
    drawn, (axes,) = style.figure(width=style.WIDTH, height=3)
    days, cut = np.arange(len(series)), int(data.day_index[data.where("test")][0])
    axes.plot(days[:cut], series.price[:cut], color=style.COLOURS["nem"], linewidth=1, label="Training days")
    axes.plot(days[cut:], series.price[cut:], color=style.COLOURS["blind"], linewidth=1, label="Test days")
    axes.set(xlabel=f"Day ({series.dates[0]} to {series.dates[-1]})", ylabel="Rate")
    axes.set_title(f"Daily exchange rate ({evidence.source.get('source', 'unknown')} source)")
    axes.legend()
    before, after = series.price[:cut], series.price[cut:]
    seen = (f"{cut} training days with rates of {before.min():.4g} to {before.max():.4g}, {len(after)} test days of "
            f"{after.min():.4g} to {after.max():.4g}; {(after > before.max()).mean():.0%} of these lie above, "
            f"{(after < before.min()).mean():.0%} below all training days")  # fmt: skip
    caption = f"{outcomes[0].figure(10)}The series, training and test days"
    return [style.picture(drawn, outcomes[0].file(10, "series"), caption, seen)]


def forms(params: "Params") -> dict[str, tuple[Path, dict[str, Any]]]:
    """Write the windows in each scaling, for tuning to choose among, and return their folders and parameters."""
    series, unit = rates.read(rates.RATES), str(records.read_json(paths.source_record("fx")).get("unit", ""))
    written = {}
    for scaling in ("min-max", "z-score"):
        folder = paths.CHECKPOINTS / "tune-data" / scaling
        settings = params.fx.windows.model_copy(update={"scaling": scaling})
        # Scaled on the days before the validation tail, as a user who chooses there must.
        windows.write(folder, series, settings, unit=unit, hold_out=True)
        written[scaling] = (folder, {"windows": {"scaling": scaling}})
    return written


TASK = Task(
    name="fx", title="Exchange rate", head="identity", rival="persistence",
    words={"persistence": "yesterday's price"}, columns={"skill_persistence": ("skill vs yesterday's price", 1.0)},
    tables=TABLES, curves=CURVES, source="paper", references=references, draw=draw, conclude=conclude, forms=forms,
)  # fmt: skip
