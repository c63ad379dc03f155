// The interactive figure of Theorems 2-5 for two neurons: which noise passes the NEM test, and what is injected.
(() => {
  const figure = document.getElementById("nem-geometry");
  if (!figure) return;
  const HALF = 3.2; // shown range of each noise, from the one that changes nothing
  const DRAWS = 500;
  const probability = { min: 0.02, max: 0.98, step: 0.01 };
  const real = { min: -3, max: 3, step: 0.1 };
  const sliders = {
    a1: ["activation a₁ of the true class (a₂ = 1 − a₁)", probability, 0.7],
    x1: ["activation a₁", real, 1], x2: ["activation a₂", real, 2],
    y1: ["target y₁", real, 2], y2: ["target y₂", real, 3],
    g1: ["gate g₁", probability, 0.8], g2: ["gate g₂", probability, 0.3],
    sigma: ["σ", { min: 0.1, max: 2, step: 0.05 }, 1],
  };
  const words = {
    classifierAdditive: [["a1"], "n·log a ≥ 0: a half-space whose edge passes through no noise. Half of all draws pass, whatever a and σ are."],
    classifierMultiplicative: [["a1"], "(n − 1)·(y∘log a) ≥ 0 with y = (1, 0): the target of the true class must not grow, n₁ ≤ 1; the other neuron does not matter."],
    regressorAdditive: [["x1", "x2", "y1", "y2"], "‖y + n − a‖² ≤ ‖y − a‖²: a ball around a − y with no noise on its surface. The smaller the residual against σ, the fewer draws pass."],
    regressorMultiplicative: [["x1", "x2", "y1", "y2"], "‖y∘n − a‖² ≤ ‖y − a‖²: an ellipse around a/y with half-axes ‖y − a‖/|yₖ|."],
    gateAdditive: [["g1", "g2"], "n·logit g ≥ 0: a half-space. Injected noise moves gates away from ½ on average."],
    gateMultiplicative: [["g1", "g2"], "(n − 1)·(g∘logit g) ≥ 0, latent z at its mean g: a half-space whose edge passes through n = 1."],
  };
  const svg = figure.querySelector("svg");
  const told = figure.querySelector("output");
  const panel = figure.querySelector(".sliders");
  const chosen = () => figure.querySelector("input[type=radio]:checked").value;

  // The same standard normal draws at every visit: a seeded generator (mulberry32) and Box and Muller's transform.
  let seed = 1;
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const draws = Array.from({ length: DRAWS }, () => {
    const [radius, angle] = [Math.sqrt(-2 * Math.log(1 - uniform())), 2 * Math.PI * uniform()];
    return [radius * Math.cos(angle), radius * Math.sin(angle)];
  });

  const inputs = {};
  for (const [name, [label, range, value]] of Object.entries(sliders)) {
    const row = document.createElement("label");
    const shown = document.createElement("output");
    const text = document.createElement("span");
    inputs[name] = Object.assign(document.createElement("input"), { type: "range", ...range, value });
    text.textContent = label;
    row.append(text, inputs[name], shown);
    row.dataset.slider = name;
    panel.append(row);
    inputs[name].addEventListener("input", draw);
  }
  figure.querySelectorAll("input[type=radio]").forEach((input) => input.addEventListener("change", draw));

  function element(name, attributes, content) {
    const made = document.createElementNS(svg.namespaceURI, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (content !== undefined) made.textContent = content;
    svg.append(made);
  }

  const signed = (value, digits = 0) => value.toFixed(digits).replace("-", "−");

  function draw() {
    const name = chosen();
    const { neutral, gain } = gains.cases[name];
    const value = Object.fromEntries(Object.entries(inputs).map(([key, input]) => [key, Number(input.value)]));
    const state = { a: [value.x1, value.x2], y: [value.y1, value.y2], g: [value.g1, value.g2] };
    if (name.startsWith("classifier")) Object.assign(state, { a: [value.a1, 1 - value.a1], y: [1, 0] });
    for (const row of panel.children) {
      const key = row.dataset.slider;
      row.hidden = key !== "sigma" && !words[name][0].includes(key);
      row.lastChild.textContent = signed(value[key], 2);
    }
    svg.replaceChildren();
    const at = (n) => [200 + ((n[0] - neutral) * 180) / HALF, 200 - ((n[1] - neutral) * 180) / HALF];
    // The region as a polygon in directions from the neutral noise, cut off far outside of the figure.
    const edge = Array.from({ length: 720 }, (_, k) => {
      const u = [Math.cos((Math.PI * k) / 360), Math.sin((Math.PI * k) / 360)];
      const t = Math.min(gains.reach(name, state, u), 3 * HALF);
      return at(u.map((v) => neutral + t * v)).map((v) => v.toFixed(1)).join(" ");
    });
    element("path", { d: `M${edge.join("L")}Z`, class: "region" });
    element("path", { d: "M20 200H380M200 20V380", class: "axis" });
    for (let k = -3; k <= 3; k += 1) {
      if (k === 0) continue;
      const [x, y] = at([neutral + k, neutral + k]);
      element("text", { x, y: 214, "text-anchor": "middle" }, signed(neutral + k));
      element("text", { x: 194, y: y + 4, "text-anchor": "end" }, signed(neutral + k));
    }
    element("text", { x: 392, y: 196, "text-anchor": "end", class: "name" }, "n₁");
    element("text", { x: 208, y: 18, class: "name" }, "n₂");
    let passed = 0;
    for (const draw of draws) {
      const noise = draw.map((v) => neutral + value.sigma * v);
      const [x, y] = at(noise);
      const kept = gain(noise, state) >= 0;
      passed += kept;
      if (kept) element("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 2.2, class: "kept" });
      else element("path", { d: `M${(x - 2).toFixed(1)} ${(y - 2).toFixed(1)}l4 4m0 -4l-4 4`, class: "refused" });
    }
    const { share, mean } = gains.expected(name, state, value.sigma);
    const [x, y] = at(mean.map((v) => neutral + v));
    element("path", { d: `M200 200L${x.toFixed(1)} ${y.toFixed(1)}`, class: "shift" });
    element("circle", { cx: x.toFixed(1), cy: y.toFixed(1), r: 4, class: "shift" });
    element("circle", { cx: 200, cy: 200, r: 5, class: "neutral" });
    const length = Math.hypot(...mean);
    const summary = `${(100 * share).toFixed(1)} % of all noise passes (${passed} of ${DRAWS} draws); the mean of what is injected is ${length.toFixed(3)} long.`;
    told.textContent = `${words[name][1]} ${summary}`;
    svg.setAttribute("aria-label", `Noise of two neurons around ${neutral}: ${summary}`);
  }
  draw();
})();
