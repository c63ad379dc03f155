// The NEM gains of nem/theory/gains.py for two neurons, and what follows from them for Gaussian noise. A state holds
// the activations a, targets y (outputs) or gates g; tests/evaluation/test_page.py holds each number to Python's.
const gains = (() => {
  const dot = (u, v) => u.reduce((sum, value, k) => sum + (value === 0 ? 0 : value * v[k]), 0);
  const log = (values) => values.map(Math.log);
  const logit = (values) => values.map((value) => Math.log(value / (1 - value)));
  const square = (values) => dot(values, values);
  const gap = (s) => s.y.map((value, k) => value - s.a[k]);

  // Each case: the noise that leaves the signal alone, and the gain of noise n.
  const cases = {
    classifierAdditive: { neutral: 0, gain: (n, s) => dot(n, log(s.a)) },
    classifierMultiplicative: { neutral: 1, gain: (n, s) => dot(n.map((v, k) => (v - 1) * s.y[k]), log(s.a)) },
    regressorAdditive: { neutral: 0, gain: (n, s) => square(gap(s)) - square(n.map((v, k) => s.y[k] + v - s.a[k])) },
    regressorMultiplicative: {
      neutral: 1, gain: (n, s) => square(gap(s)) - square(n.map((v, k) => s.y[k] * v - s.a[k])),
    },
    gateAdditive: { neutral: 0, gain: (n, s) => dot(n, logit(s.g)) },
    gateMultiplicative: { neutral: 1, gain: (n, s) => dot(n.map((v, k) => (v - 1) * s.g[k]), logit(s.g)) },
  };

  // Along a unit vector u from the neutral noise the gain is linear·t - curvature·t²: noise passes up to this t.
  const reach = (name, s, u) => {
    const at = (t) => cases[name].gain(u.map((v) => cases[name].neutral + t * v), s);
    const curvature = -(at(1) + at(-1)) / 2;
    const linear = (at(1) - at(-1)) / 2;
    if (curvature > 1e-12) return Math.max(linear / curvature, 0);
    return linear >= 0 ? Infinity : 0;
  };

  // Abramowitz & Stegun 7.1.26 is too coarse: the series up to 3, beyond it a continued fraction.
  const erf = (x) => {
    if (x > 3) {
      let fraction = x;
      for (let k = 60; k > 0; k -= 1) fraction = x + k / 2 / fraction;
      return 1 - Math.exp(-x * x) / fraction / Math.sqrt(Math.PI);
    }
    let term = x;
    let sum = x;
    for (let k = 1; k < 60; k += 1) {
      term *= (-x * x) / k;
      sum += term / (2 * k + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  };

  // Share of N(neutral, σ²I) noise that passes, and the mean of what is injected (less neutral), over all directions.
  const expected = (name, s, sigma, steps = 3600) => {
    let share = 0;
    const mean = [0, 0];
    for (let k = 0; k < steps; k += 1) {
      const angle = (2 * Math.PI * (k + 0.5)) / steps;
      const u = [Math.cos(angle), Math.sin(angle)];
      const t = reach(name, s, u) / sigma;
      const tail = Number.isFinite(t) ? Math.exp((-t * t) / 2) : 0;
      const length = sigma * (Math.sqrt(Math.PI / 2) * erf(t / Math.SQRT2) - (tail && t * tail));
      share += (1 - tail) / steps;
      mean.forEach((_, j) => { mean[j] += (length * u[j]) / steps; });
    }
    return { share, mean };
  };

  return { cases, reach, erf, expected };
})();
if (typeof module !== "undefined") module.exports = gains;
