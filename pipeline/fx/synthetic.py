"""A seeded series with the habits of a managed exchange rate, for runs without network and for tests.

Regimes follow each other: a peg that hardly moves, a crawl, a float, and devaluations that jump. Early days have one
quote for open, high, low and price, as in the paper's series; weekends and some holidays have none.
"""

import numpy as np

from pipeline.common import seeds
from pipeline.fx.rates import Rates


def generate(days: int, seed: int) -> Rates:
    """Return ``days`` trading days of synthetic rates; ``seed`` is the root of the seed tree."""
    random = seeds.numpy_generator(seed, "fx", "synthetic")
    calendar = np.arange(np.datetime64("1980-01-02"), np.datetime64("1980-01-02") + 2 * days + 60)
    weekday = (calendar.astype("datetime64[D]").view("int64") + 3) % 7
    open_days = calendar[(weekday < 5) & (random.random(len(calendar)) > 0.02)][:days]
    drift, volatility = np.empty(days), np.empty(days)
    start = 0
    while start < days:
        length = int(random.integers(60, 240))
        regime = random.choice(3, p=[0.25, 0.35, 0.4])
        drift[start : start + length] = (0.0, 2e-4, 5e-5)[regime] * random.normal(1, 0.5)
        volatility[start : start + length] = (3e-4, 1.2e-3, 4e-3)[regime]
        start += length
    steps = drift + volatility * random.standard_t(5, days) / np.sqrt(5 / 3)
    jumps = random.random(days) < 2.5 / max(days, 1)
    price = 8.0 * np.exp(np.cumsum(steps + jumps * random.uniform(0.02, 0.08, days)))
    opening = np.concatenate([[price[0]], price[:-1]]) * np.exp(0.3 * volatility * random.standard_normal(days))
    reach = np.abs(volatility * random.standard_normal((2, days)))
    high = np.maximum(opening, price) * (1 + reach[0])
    low = np.minimum(opening, price) * (1 - reach[1])
    values = np.stack([opening, high, low, price], 1)
    values[: days // 5] = price[: days // 5, None]
    # Data vendors' slips: a high below the price, once in about 1,400 days.
    for day in random.choice(np.arange(days // 5, days), size=days // 1400, replace=False):
        values[day, 1] = values[day, 3] * 0.999
    return Rates(open_days, np.round(values, 4))
