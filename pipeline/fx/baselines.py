"""Naive forecasts that any network has to beat, and the test that says whether it does.

All look one day ahead with the true past at hand, as the networks do, and are fitted on training days only. A rate
is so close to a random walk that yesterday's price is hard to beat: on the paper's test days its mean squared error
is 0.0829, against the 1.059 of the best network of Tables 5-8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import statsmodels.api as sm
from scipy import stats

from pipeline.fx.windows import Windows

Floats = npt.NDArray[np.float64]
AR_LAGS = 4


def persistence(windows: Windows) -> Floats:
    """Return yesterday's price for every test day [rupees]."""
    return windows.last_price_raw[windows.where("test")]


def drift(windows: Windows) -> Floats:
    """Return yesterday's price plus the mean daily change of the training days [rupees]."""
    train, test = windows.where("train", "validation"), windows.where("test")
    step = (windows.target_raw - windows.last_price_raw)[train].mean()
    moved: Floats = windows.last_price_raw[test] + step
    return moved


def autoregression(windows: Windows, lags: int = AR_LAGS) -> Floats:
    """Return the forecasts of a linear AR(``lags``) of the price, fitted by least squares on training days [rupees].

    Args:
        windows: consecutive windows.
        lags: number of past prices.

    Raises:
        ValueError: too few training days.
    """
    series = np.concatenate([windows.last_price_raw[:1], windows.target_raw])
    lagged = np.stack([series[lags - k - 1 : len(series) - k - 1] for k in range(lags)], 1)
    split = windows.split[lags - 1 :]
    train, test = np.isin(split, ("train", "validation")), split == "test"
    if train.sum() <= lags + 1:
        raise ValueError(f"expected more than {lags + 1} training windows for AR({lags}), found {int(train.sum())}")
    design = sm.add_constant(lagged, has_constant="add")
    fitted = sm.OLS(series[lags:][train], design[train]).fit()
    forecast: Floats = np.asarray(fitted.predict(design[test]), dtype=np.float64)
    return forecast


def skill(error: float, reference: float) -> float:
    """Return 1 - error / reference: 1 is perfect, 0 as good as the reference, negative is worse."""
    return 1.0 - error / reference


@dataclass(frozen=True)
class Comparison:
    """A Diebold-Mariano comparison.

    Attributes:
        statistic: positive where the first forecast has the larger loss.
        p_value: two-sided.
        lags: Bartlett lags of the long-run variance.
    """

    statistic: float
    p_value: float
    lags: int


def diebold_mariano(loss: Floats, reference: Floats, horizon: int = 1) -> Comparison:
    """Test whether two forecasts lose the same on average (Diebold & Mariano 1995).

    The mean loss differential is regressed on a constant with a Newey-West covariance (statsmodels), with the
    small-sample factor and t distribution of Harvey, Leybourne & Newbold (1997).

    Args:
        loss: ``(N,)`` losses of a forecast, such as squared errors.
        reference: ``(N,)`` losses of another forecast on the same days.
        horizon: steps ahead.

    Raises:
        ValueError: fewer than 8 days, or different lengths.
    """
    if loss.shape != reference.shape or len(loss) < 8:
        raise ValueError(f"expected two loss series of equal length >= 8, found {loss.shape} and {reference.shape}")
    n = len(loss)
    differential = loss - reference
    if np.ptp(differential) == 0:
        return Comparison(
            0.0 if differential[0] == 0 else float(np.sign(differential[0]) * np.inf), float(differential[0] == 0), 0
        )
    lags = max(horizon - 1, int(n ** (1 / 3)))
    fit = sm.OLS(differential, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    factor = np.sqrt((n + 1 - 2 * horizon + horizon * (horizon - 1) / n) / n)
    statistic = float(fit.tvalues[0]) * float(factor)
    return Comparison(statistic, float(2 * stats.t.sf(abs(statistic), n - 1)), lags)
