// The page's few habits: contents and long parts open on wide screens, readings under the pointer, one kind of claims.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const contents = document.querySelector("nav.contents details");
  const wide = matchMedia("(min-width: 70rem)");
  const settle = () => { contents.open = wide.matches; };
  if (contents) {
    settle();
    wide.addEventListener("change", settle);
    const links = new Map(all("a", contents).map((link) => [link.hash.slice(1), link]));
    all("a", contents).forEach((link) => link.addEventListener("click", () => { if (!wide.matches) contents.open = false; }));
    const mark = () => {
      const passed = all("main section[id]").filter((part) => part.getBoundingClientRect().top < 160 && links.has(part.id));
      links.forEach((link) => link.removeAttribute("aria-current"));
      if (passed.length) links.get(passed.at(-1).id).setAttribute("aria-current", "true");
    };
    addEventListener("scroll", mark, { passive: true });
    mark();
  }

  // Long parts are folded on narrow screens; a link opens what it leads to, and what that stands in.
  const folds = all("details.fold");
  const narrow = matchMedia("(max-width: 48rem)");
  folds.forEach((part) => { part.open = !narrow.matches; });
  narrow.addEventListener("change", () => folds.forEach((part) => { part.open ||= !narrow.matches; }));
  const reveal = (hash) => {
    const target = hash && document.getElementById(decodeURIComponent(hash.slice(1)));
    if (!target) return;
    folds.forEach((part) => { part.open ||= part.parentElement === target || part.contains(target); });
  };
  document.addEventListener("click", (event) => reveal(event.target.closest("a")?.hash));
  addEventListener("hashchange", () => reveal(location.hash));
  reveal(location.hash);

  // On paper everything is open.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = all("details:not([open])");
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));

  for (const figure of all("figure.curves")) {
    const boxes = all("input[type=checkbox]", figure);
    all("button", figure).forEach((button) => button.addEventListener("click", () => {
      boxes.forEach((box) => { box.checked = box.value === "none" || box.value.startsWith(button.value); });
      boxes.forEach((box) => box.dispatchEvent(new Event("change", { bubbles: true })));
    }));
  }

  // A reading: the values of all shown curves at the epoch under the pointer, from the drawn points themselves.
  for (const area of all(".area[data-x]")) {
    const scales = ["x", "y"].map((axis) => JSON.parse(area.dataset[axis]));
    const value = ([low, high, log], part) => (log ? low * (high / low) ** part : low + (high - low) * part);
    const curves = all("g[data-condition]", area).map((group) => ({
      group, label: group.dataset.label,
      points: group.querySelector(".line").getAttribute("d").split(/[ML]/).filter(Boolean).map((text) => text.split(" ").map(Number)),
    }));
    const [reading, rule] = [area.querySelector(".reading"), area.querySelector(".rule")];
    area.addEventListener("pointermove", (event) => {
      const box = area.getBoundingClientRect();
      const across = (1000 * (event.clientX - box.left)) / box.width;
      const shown = curves.filter(({ group }) => getComputedStyle(group).display !== "none");
      if (!shown.length) return;
      const nearest = shown[0].points.reduce((best, point) => (Math.abs(point[0] - across) < Math.abs(best[0] - across) ? point : best))[0];
      const lines = shown.map(({ label, points }) => [label, points.find((point) => point[0] === nearest)])
        .filter(([, point]) => point).sort((one, other) => one[1][1] - other[1][1])
        .map(([label, point]) => `${value(scales[1], 1 - point[1] / 1000).toPrecision(3)}  ${label}`);
      reading.textContent = [`epoch ${Math.round(value(scales[0], nearest / 1000))}`, ...lines].join("\n");
      reading.classList.toggle("left", nearest > 500);
      rule.style.left = `${nearest / 10}%`;
      reading.hidden = rule.hidden = false;
    });
    area.addEventListener("pointerleave", () => { reading.hidden = rule.hidden = true; });
  }

  for (const group of all("fieldset.verdicts")) {
    group.addEventListener("change", (event) => all("tr[data-verdict]").forEach((row) => {
      row.hidden = event.target.value !== "" && row.dataset.verdict !== event.target.value;
    }));
  }
})();
