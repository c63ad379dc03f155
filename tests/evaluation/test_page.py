"""The report as a page: complete without a network, its formulas those of Python, and at home in a browser."""

import html
import json
import math
import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from nem import theory
from nem.theory import regions
from pipeline import tasks
from pipeline.common import paths, records
from pipeline.evaluation import charts, documents, report
from pipeline.evaluation.statistics import holm, sign_flip_p_value
from tests.conftest import ROOT
from tests.evaluation import fabricate

FX = tasks.of("fx")
GAINS = Path(report.__file__).with_name("gains.js")
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(os.environ.get("NEM_AXE", ROOT / "node_modules/axe-core/axe.min.js"))
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
         "--virtual-time-budget=20000")  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
CLAIMS = re.findall(r"^\| \d+\. .* \| ([a-z]+).* \|$", (ROOT / documents.STUDY).read_text("utf-8"), re.M)
"""The first word of each verdict in docs/study.md."""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of runs on data that count as the paper's, with its geometry, claims and errata."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "docs").symlink_to(ROOT / "docs")
        fabricate.fx_data()
        fabricate.class_data("gestures", groups=False)
        records.write_json(paths.source_record("fx"), {"source": "paper", "unit": "rupees"})
        for cell in ("lstm", "gru"):
            fabricate.run("fx", cell, repetitions=10)
            fabricate.run("gestures", cell, repetitions=10)
        fabricate.evaluate.evaluate([FX, tasks.Task("gestures", "Own <gestures>", "softmax")], ["lstm", "gru"],
                                    fabricate.BOOTSTRAP, "fx")  # fmt: skip
    return folder / paths.REPORT


# --- Without a browser ----------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text("utf-8")
    assert len(text.encode()) < 4_000_000
    assert not re.findall(r"https?://|//[a-z]+\.|url\(|@import|<link(?! rel=\"icon\" href=\"data:,\")", text)
    assert set(re.findall(r'\bsrc="([^,]*),', text)) == {"data:image/png;base64"}
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', text)
    assert set(links) <= set(ids)
    assert {"result", "fx-gru", "gestures-lstm", "baselines", "geometry", "claims", "provenance", "errata"} <= {*links}
    assert not re.findall(r'href="(?!#|data:,)', text)
    headings = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert headings[0] == 1 < headings[1]
    assert all(after <= before + 1 for before, after in pairwise(headings))
    assert "Own &lt;gestures&gt;" in text


def test_every_picture_says_what_is_to_be_seen_and_no_chart_is_empty(page):
    text = page.read_text("utf-8")
    images = re.findall(r"<img[^>]*>", text)
    assert len(images) == 4 + 2  # Figures 1(a), 4, 5, 6; 10, 11
    assert all(len(re.search(r'alt="([^"]+)"', image)[1]) > 40 for image in images)
    figures = re.findall(r"<figure.*?</figure>", text, re.S)
    drawn = [part for part in figures if 'class="curves"' in part or 'class="forest"' in part]
    assert len(drawn) == 4 + 6  # four runs, and two charts of each classifier
    for part in drawn:
        assert re.search(r'role="img"[^>]* aria-label="[^"]{60,}"', part)
        assert len(re.findall(r'<path class="(?:line|mean)" d="M[\d.]+ [\d.]+', part)) >= 13
        assert not re.search(r'd="[^"]*(?:nan|inf)', part)


def test_paper_and_ours_stand_side_by_side_only_on_the_papers_data(page):
    parts = page.read_text("utf-8").split('<section id="')
    own = {part[: part.index('"')]: part for part in parts[1:]}
    assert "2.087" in own["fx-lstm"]
    cells = re.findall(r'<td class="word">(yes|no|open)</td>', own["fx-lstm"])
    assert cells == ["no", "yes", "yes", "yes", "no", "yes"] + ["yes"] * 6  # blind noise is worse, NEM noise better
    assert "paper" not in own["gestures-lstm"]
    assert str(documents.STUDY) in own["claims"]
    assert own["claims"].count("<tr data-verdict") == len(CLAIMS) > 50
    assert own["errata"].count("<tr>") > 60 > own["errata"].count("](") == 0


def test_fewer_repetitions_than_a_significant_result_needs_are_called_too_few(page, monkeypatch, tmp_path):
    """For any number of comparisons the bound is where the smallest adjusted p-value falls below the level."""
    for comparisons in (1, 6, 12, 30):
        n = report.needed(comparisons)
        for repetitions, can in ((n, True), (n - 1, False)):
            p = sign_flip_p_value(np.ones(repetitions))
            assert (p is not None and holm([p, *[1.0] * (comparisons - 1)])[0] < 0.05) == can
    assert report.needed(12) == 9
    assert "NEM noise is better than no noise in 24 of 24 comparisons" in page.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    fabricate.fx_data()
    fabricate.run("fx", "gru", repetitions=4)
    fabricate.judge(FX, cells=["gru"])
    text = paths.REPORT.read_text()
    assert "Too few repetitions to tell NEM noise from no noise" in text
    assert "With 4 repetitions no difference can be significant: for 12 conditions" in text
    assert 'class="word better"' not in text
    assert text.count("is not in this folder") == 2  # neither claims nor errata


def test_scales_hold_their_values_and_label_few_round_numbers():
    for values, log in (([1, 5], False), ([0.005, 0.12], True), ([2, 3], True), ([7, 7], False), ([1e-3, 1e6], True)):
        scale = charts.Scale.over([*values, None, math.nan], log)
        places = scale.place(values)
        assert ((places >= 0) & (places <= charts.SIDE)).all()
        assert 2 <= len(scale.ticks()) <= charts.TICKS + 1, values
        assert 2 <= len(scale.ticks(4)) <= 5, values
        for place, label in scale.ticks():
            assert place == pytest.approx(float(scale.place(float(label))), abs=0.2)
    assert np.isnan(charts.Scale(1, 10, log=True).place(-1.0))


def test_claims_of_another_form_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert documents.claims() is documents.errata() is None
    documents.STUDY.parent.mkdir()
    documents.STUDY.write_text(f"{documents.CLAIMS}\n| claim | verdict |\n| --- | --- |\n")
    with pytest.raises(ValueError, match=r"expected a table of .*found .*'verdict'"):
        documents.claims()


# --- The figure's formulas ------------------------------------------------------------------------------------------


def python_numbers(state, noise, sigma):
    """Per case of gains.js: the gain of each noise, the share that passes, and the mean where it has a closed form."""
    a, y, g, p, n, zero = (torch.tensor(value, dtype=torch.float64) for value in (
        state["a"], state["y"], state["g"], [state["p"], 1 - state["p"]], noise, [0, 0]))  # fmt: skip
    true, half, logit = torch.tensor([1, 0], dtype=torch.float64), theory.expected_halfspace_noise, torch.logit(g)
    ball, ellipse = regions.regressor_additive_region(y, a), regions.regressor_multiplicative_region(y, a)
    return {
        "classifierAdditive": (theory.classifier_additive_gain(n, p), 0.5, half(p.log(), sigma)),
        "classifierMultiplicative": (theory.classifier_multiplicative_gain(n, true, p), 0.5, half(-true, sigma)),
        "regressorAdditive": (theory.regressor_additive_gain(n, y, a), ball.acceptance(zero, sigma),
                              theory.expected_ball_noise(y - a, sigma)),
        "regressorMultiplicative": (theory.regressor_multiplicative_gain(n, y, a), ellipse.acceptance(zero + 1, sigma),
                                    None),
        "gateAdditive": (theory.gate_additive_gain(n, g), 0.5, half(logit, sigma)),
        "gateMultiplicative": (theory.gate_multiplicative_gain(n, g, g), 0.5, half(g * logit, sigma)),
    }  # fmt: skip


@pytest.mark.skipif(NODE is None, reason="node, which runs the page's formulas, is not installed")
def test_the_interactive_figure_computes_what_python_computes():
    noise = [[0.0, 0.0], [1.0, 1.0], [0.3, -1.2], [-2.0, 0.7], [1.6, 2.2]]
    states = [({"a": [1.0, 2.0], "y": [2.0, 3.0], "g": [0.8, 0.3], "p": 0.7}, 1.0),
              ({"a": [-0.4, 0.9], "y": [1.5, -0.6], "g": [0.1, 0.55], "p": 0.05}, 0.4)]  # fmt: skip
    program = f"""
      const gains = require({json.dumps(str(GAINS))});
      const found = {json.dumps([[s, sigma] for s, sigma in states])}.map(([s, sigma]) => Object.fromEntries(
        Object.keys(gains.cases).map((name) => {{
          const own = name.startsWith("classifier") ? {{ a: [s.p, 1 - s.p], y: [1, 0] }} : s;
          const gain = {json.dumps(noise)}.map((n) => gains.cases[name].gain(n, own));
          return [name, [gain, gains.expected(name, own, sigma)]];
        }})));
      console.log(JSON.stringify(found));"""
    done = subprocess.run([NODE, "-e", program], capture_output=True, text=True, check=True)
    for (state, sigma), found in zip(states, json.loads(done.stdout), strict=True):
        wanted = python_numbers(state, noise, sigma)
        assert found.keys() == wanted.keys()
        for name, (gain, share, mean) in wanted.items():
            assert found[name][0] == pytest.approx(gain.tolist(), abs=1e-12), name
            assert found[name][1]["share"] == pytest.approx(share, abs=2e-4), name
            if mean is not None:
                assert found[name][1]["mean"] == pytest.approx(mean.tolist(), abs=1e-3), name


# --- In a browser ---------------------------------------------------------------------------------------------------

PROBE = """
<script>addEventListener("load", async () => {
  const tall = document.documentElement.scrollHeight;
  const folded = [...document.querySelectorAll(".fold")].map((part) => !part.open);
  document.querySelector('nav.contents a[href="#claims"]').click();
  const followed = document.querySelector("#claims > .fold").open;
  const shown = (name) => getComputedStyle(document.querySelector(`g[data-condition="${name}"]`)).display !== "none";
  const box = document.querySelector('.curves input[value="blind-additive-both"]');
  const before = shown(box.value);
  box.click();
  const after = shown(box.value);
  const svg = document.querySelector("#nem-geometry svg");
  const told = () => svg.getAttribute("aria-label");
  const theorem = told();
  document.querySelector('input[value="regressorAdditive"]').click();
  const claims = () => [...document.querySelectorAll("tr[data-verdict]")].filter((row) => !row.hidden).length;
  const all = claims();
  document.querySelector('.verdicts input[value="opposite"]').click();
  const wide = [...document.querySelectorAll("main *:not(.scroll *):not(svg *):not(.unseen)")]
    .filter((part) => part.getBoundingClientRect().right > innerWidth + 1).map((part) => part.outerHTML.slice(0, 80));
  const serious = typeof axe === "undefined" ? [] : (await axe.run()).violations
    .filter((one) => ["serious", "critical"].includes(one.impact)).map((one) => `${one.id}: ${one.nodes[0].html}`);
  const result = { tall, folded, followed, before, after, theorem, ball: told(), all, some: claims(), wide, serious,
    width: innerWidth,
    dark: getComputedStyle(document.body).backgroundColor, points: svg.querySelectorAll("circle").length };
  document.documentElement.innerHTML = `<pre id="result">${JSON.stringify(result).replace(/</g, "&lt;")}</pre>`;
});</script>"""


def browser(test):
    return pytest.mark.browser(pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")(test))


def browse(folder, page, width, flags):
    """Open the page in a frame of this width, use it, and return what was found, and the console's messages."""
    scripts = PROBE + (f"<script>{AXE.read_text('utf-8')}</script>" if AXE.is_file() else "")
    inner, outer = folder / "inner.html", folder / "outer.html"
    inner.write_text(page.read_text("utf-8").replace("</body>", f"{scripts}</body>"), "utf-8")
    # A window has a least width, a frame has none.
    outer.write_text(f"""<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe>
      <script>addEventListener("load", () => setTimeout(() => {{
        document.body.append(frames[0].document.getElementById("result") || "none") }}, 9000))</script>""")
    places = (f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--allow-file-access-from-files")
    command = [CHROMIUM, *FLAGS, *places, *flags, "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), re.findall("CONSOLE.*", done.stderr)


@pytest.fixture(scope="module", params=[(1400, ()), (390, ()), (1400, (DARK,))], ids=["wide", "phone", "dark"])
def visit(page, tmp_path_factory, request):
    return *browse(tmp_path_factory.mktemp("browser"), page, *request.param), *request.param


@browser
def test_the_page_works_in_a_browser(visit):
    """No message on the console, nothing cut, switches that switch, colours that follow the reader's.

    On a phone long parts are folded, and a link opens what it leads to.
    """
    found, console, width, flags = visit
    assert not console
    assert (found["width"], found["wide"]) == (width, [])
    assert set(found["folded"]) == {width == 390}
    assert found["followed"]
    assert found["tall"] < 12_000 or width > 390
    assert found["before"] != found["after"]
    assert "50.0 % of all noise passes" in found["theorem"] != found["ball"]
    assert found["points"] > 100
    assert (found["all"], found["some"]) == (len(CLAIMS), CLAIMS.count("opposite"))
    assert (found["dark"] == "rgb(255, 255, 255)") == (not flags)


@browser
@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm install axe-core, or NEM_AXE names its axe.min.js")
def test_axe_finds_nothing_serious(visit):
    assert visit[0]["serious"] == []


@browser
@pytest.mark.skipif(not shutil.which("pdftotext"), reason="pdftotext is not installed")
def test_the_page_prints_with_everything_open_and_nothing_cut(page, tmp_path):
    """As PDF, whose text has the last column of the widest table and the errata, which are closed on the screen."""
    target = tmp_path / "page.pdf"
    places = (f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={target}", "--no-pdf-header-footer")
    subprocess.run([CHROMIUM, *FLAGS, *places, page.as_uri()], capture_output=True, timeout=120, check=True)
    text = subprocess.run(["pdftotext", "-layout", target, "-"], capture_output=True, text=True, check=True).stdout
    assert text.count("0/10") >= 4 * 12
    assert "Appendix B: LSTM" in text
