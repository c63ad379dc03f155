"""The figures of Theorems 1, 4 and 5 from the library's own functions, and that of the stages: ``make facts``.

Those of Theorems 2 and 3 and their corollaries are the paper's (Figures 1a, 4, 5, 6) as the pipeline draws them.
"""

import itertools
from pathlib import Path

import matplotlib as mpl
import networkx as nx
import numpy as np
import torch
from ruamel.yaml import YAML

mpl.use("Agg")
from matplotlib import pyplot as plt

from nem import theory
from nem.theory import gem

ACCEPTED, REFUSED = "#0072b2", "#d55e00"  # as in the figures of the pipeline


def surrogate(destination: Path) -> None:
    """Draw Theorem 1: log p, and Q plus a constant, along a line through Θⁿ; they touch there with one slope."""
    torch.manual_seed(3)
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(20, 2, generator=draw, dtype=torch.float64)
    hidden, output = (torch.randn(size, generator=draw, dtype=torch.float64) for size in ((3, 2), (1, 3)))
    target = torch.randn(20, 1, generator=draw, dtype=torch.float64)
    latent = gem.states(3)

    def joint(step: float) -> torch.Tensor:
        logit = x @ (hidden + step).T
        prior = torch.stack([gem.log_prior(z.expand_as(logit), logit) for z in latent])
        score = torch.stack([(output @ z).expand(20, 1) for z in latent])
        return prior + gem.log_likelihood(target, score, "identity")

    steps, now = np.linspace(-1, 1, 101), joint(0.0)
    evidence = [float(gem.log_evidence(joint(s)).sum()) for s in steps]
    constant = float(gem.entropy(now, now).sum())
    bound = [float(gem.surrogate(joint(s), now).sum()) + constant for s in steps]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    axes.plot(steps, evidence, color="black", label="log p(y | x, Θ)")
    axes.plot(steps, bound, color=ACCEPTED, linestyle="--", label="Q(Θ | Θⁿ) + H(Θⁿ | Θⁿ)")
    axes.plot([0], [float(gem.log_evidence(now).sum())], "o", color="black", label="Θⁿ: one value, one slope")
    axes.set(xlabel="step from Θⁿ in all gate weights", ylabel="nats")
    axes.legend(frameon=False)
    figure.savefig(destination, dpi=150, metadata={"Software": None})
    plt.close(figure)


def gates(destination: Path) -> None:
    """Draw Theorem 4 (and 5) and Corollary 3 (and 4) for a gate of two neurons."""
    gate = torch.tensor([0.8, 0.35], dtype=torch.float64)
    draws = torch.randn(1500, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    figure, panels = plt.subplots(1, 2, figsize=(6.4, 3.3), layout="constrained")
    gains = (
        ("additive noise n", draws, theory.gate_additive_gain(draws, gate)),
        ("multiplicative noise n, z := g", 1 + draws, theory.gate_multiplicative_gain(1 + draws, gate, gate)),
    )
    for panel, (title, noise, gain) in zip(panels, gains, strict=True):
        kept = gain >= 0
        for chosen, colour, label in ((~kept, REFUSED, "refused"), (kept, ACCEPTED, "kept")):
            panel.scatter(*noise[chosen].T.numpy(), s=4, color=colour, linewidths=0, label=label)
        panel.set(title=title, xlabel="n₁ (gate 0.80)", ylabel="n₂ (gate 0.35)")
        panel.set_aspect("equal")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, markerscale=3, frameon=False
    )
    figure.savefig(destination, dpi=150, metadata={"Software": None})
    plt.close(figure)


def stages(destination: Path) -> None:
    """Draw the pipeline of ``dvc.yaml``: an arrow for every output that another stage depends on."""
    described = YAML(typ="safe").load((Path(__file__).parents[1] / "dvc.yaml").read_text("utf-8"))["stages"]
    tasks, cells = ("fx", "video"), ("lstm", "gru")
    nodes: dict[str, tuple[list[str], list[str]]] = {}
    for name, stage in described.items():
        body, items = stage.get("do", stage), [""]
        if "foreach" in stage:
            items = [f" {key}" for key in stage["foreach"]]
        elif "matrix" in stage:
            items = [f" {task} {cell}" for task in tasks for cell in cells]
        for item in items:
            words = [*item.split(), "", ""]
            values = {"${key}": words[0], "${item.task}": words[0], "${item.cell}": words[1]}

            def filled(paths: list[object], values: dict[str, str] = values) -> list[str]:
                texts = [next(iter(path)) if isinstance(path, dict) else str(path) for path in paths]
                for mark, value in values.items():
                    texts = [text.replace(mark, value) for text in texts]
                return texts

            nodes[name + item] = filled(body["deps"]), filled(body["outs"])
    graph = nx.DiGraph()
    graph.add_nodes_from(nodes)
    for (one, (_, outs)), (other, (deps, _)) in itertools.permutations(nodes.items(), 2):
        if any(dep == out or out.startswith(f"{dep}/") or dep.startswith(f"{out}/") for out in outs for dep in deps):
            graph.add_edge(one, other)
    graph = nx.transitive_reduction(graph)
    # Levels count from the end, so that all trainings stand in one row; each task has a side.
    place = {}
    for level, row in enumerate(nx.topological_generations(graph.reverse())):
        for side, start in ((0.25, "acquire fx"), (0.75, "acquire video"), (0.5, "")):
            own = [name for name in row if name not in place and (not start or nx.has_path(graph, start, name))]
            own = [name for name in own if name != "evaluate" or not start]
            place |= {name: (side + 0.24 * (k - (len(own) - 1) / 2), level) for k, name in enumerate(own)}
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "#777777"}
    nx.draw_networkx_edges(graph, place, ax=axes, edge_color="#777777", node_size=900)
    nx.draw_networkx_labels(graph, place, ax=axes, font_size=9, bbox=box)
    axes.set_axis_off()
    figure.savefig(destination, dpi=150, metadata={"Software": None})
    plt.close(figure)


def draw(folder: Path) -> None:
    """Draw all of them into a folder."""
    stages(folder / "dag.png")
    surrogate(folder / "theorem_1.png")
    gates(folder / "theorem_4.png")


if __name__ == "__main__":
    draw(Path(__file__).with_name("images"))
