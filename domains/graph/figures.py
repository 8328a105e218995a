"""Pictures of a graph task: its degrees and homophily, where nodes lie, who is mistaken for whom, and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ..pictures import calibration_picture, confusion_picture, panel
from ..task import Evidence, Fitted, Split
from .data import Graph
from .model import GraphNet

if TYPE_CHECKING:
    from .tasks import GraphTask

MOST_POINTS = 1500  # of the embedding map: t-SNE's time grows faster than their number
NEAR = 40  # nodes of the neighbourhood picture


def degree_panel(graph: Graph) -> Figure:
    """Degrees, and per node the share of neighbours of its own class."""
    two = graph.level == "node" and bool(graph.classes)
    figure, axes = panel(columns=2 if two else 1)
    first = axes[0] if two else axes
    degree = graph.degree()
    values, counts = np.unique(degree, return_counts=True)
    first.loglog(np.maximum(values, 0.7), counts, ".", color="tab:blue")
    first.set(
        xlabel="degree (0 drawn at 0.7)", ylabel="nodes", title=f"{graph.nodes} nodes, {len(graph.pairs())} edges"
    )
    if two:
        share = neighbour_agreement(graph)
        axes[1].hist(share[np.isfinite(share)], bins=20, range=(0, 1), color="tab:orange")
        mean = float(np.nanmean(share)) if np.isfinite(share).any() else float("nan")
        axes[1].set(xlabel="share of neighbours of the own class", ylabel="nodes", title=f"homophily, mean {mean:.2f}")
    return figure


def neighbour_agreement(graph: Graph) -> Any:
    """Per node the share of its labelled neighbours with its class; NaN where it has none, or no label."""
    assert graph.target is not None
    source, target = graph.edges
    known = (graph.target[source] >= 0) & (graph.target[target] >= 0)
    equal = (graph.target[source] == graph.target[target]) & known
    count = np.bincount(target[known], minlength=graph.nodes)
    same = np.bincount(target[equal], minlength=graph.nodes)
    with np.errstate(invalid="ignore", divide="ignore"):
        return same / count


def embedding_map(values: Any, colour: Any, names: tuple[str, ...]) -> Figure:
    """t-SNE of what the head reads; the same picture in every run."""
    from sklearn.manifold import TSNE

    step = max(1, -(-len(values) // MOST_POINTS))
    values, colour = np.asarray(values[::step], np.float64), colour[::step]
    perplexity = float(min(30, max(2, (len(values) - 1) / 3)))
    at = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=500).fit_transform(values)
    figure, axes = panel()
    if names:
        for c, name in enumerate(names[:10]):
            mine = colour == c
            axes.plot(*at[mine].T, ".", markersize=4, color=f"C{c}", label=name)
        axes.legend(fontsize="small", markerscale=2)
    else:
        figure.colorbar(axes.scatter(*at.T, c=colour, s=6), ax=axes)
    axes.set(xticks=[], yticks=[], title=f"what the head reads, t-SNE of {len(at)} test cases")
    return figure


def error_by_degree(graph: Graph, scored: Mapping[str, Evidence]) -> Figure:
    """Error of the model and of the baselines over classes of degree."""
    degree = graph.degree()
    figure, axes = panel(6)
    counts = np.zeros(9, int)
    edges = np.array([0, 1, 2, 3, 5, 9, 17, 33, 65, np.inf])
    labels = ["0", "1", "2", "3-4", "5-8", "9-16", "17-32", "33-64", "65+"]
    for name, evidence in scored.items():
        c = evidence.columns
        wrong = (c["truth"] != c["guess"]) if "guess" in c else np.abs(c["value"] - c["truth"])
        bins = np.digitize(degree[c["case"].astype(int)], edges) - 1
        count = np.bincount(bins, minlength=len(labels))
        full = np.flatnonzero(count)
        mean = np.bincount(bins, wrong.astype(float), len(labels))[full] / count[full]
        style = {"color": "k", "linewidth": 2.5} if name == "model" else {"alpha": 0.7}
        axes.plot(full, mean, "o-", label=name, **style)
        if name == "model":  # the nodes behind a point: of two or three, it says little
            counts = count
    axes.set_xticks(range(len(labels)), [f"{d}\n({n})" for d, n in zip(labels, counts, strict=True)], fontsize="small")
    axes.set(xlabel="degree (test nodes)", ylabel="error", title="error by degree, test part")
    axes.legend(fontsize="small")
    return figure


def influence(model: GraphNet, batch: Mapping[str, Any]) -> Any:
    """How much each token's features weigh in the first answer of a batch: the norm of the gradient of its largest
    output.

    It holds for every mixer, attention or not, and counts what reached the node over all layers.
    """
    net = model.eval()
    with torch.enable_grad():
        h, layout = net.stem({k: v for k, v in batch.items() if k not in ("nodes", "target")})
        h = h.detach().requires_grad_(True)
        out = net.head(net.backbone(h, layout)[0][0, int(batch["nodes"][0])])
        (grad,) = torch.autograd.grad(out.max(), h)
    return (grad[0] * h.detach()[0]).sum(-1).abs().cpu().numpy()


def influence_picture(model: GraphNet, graph: Graph, batch: Mapping[str, Any], node: int, members: Any) -> Figure:
    """The nodes that weigh most for one node, on the graph around it. ``members``: the node of each token."""
    felt = np.bincount(members, influence(model, batch), minlength=graph.nodes)
    weight = felt / max(float(felt.max()), 1e-12)
    near = np.argsort(-weight, kind="stable")[: NEAR - 1]
    chosen = np.unique(np.append(near, node))
    place = {int(i): p for p, i in enumerate(chosen)}
    inside = np.isin(graph.edges[0], chosen) & np.isin(graph.edges[1], chosen)
    arcs = graph.edges[:, inside]
    at = _springs(len(chosen), [(place[int(a)], place[int(b)]) for a, b in arcs.T], place[node])
    figure, axes = panel(6, 5)
    for a, b in arcs.T:
        axes.plot(*at[[place[int(a)], place[int(b)]]].T, color="0.8", linewidth=0.7, zorder=1)
    shown = axes.scatter(*at.T, c=weight[chosen], s=60, cmap="viridis", zorder=2, vmin=0, vmax=1)
    axes.scatter(*at[place[node]], s=160, facecolors="none", edgecolors="tab:red", linewidths=2, zorder=3)
    figure.colorbar(shown, ax=axes, label="weight in the answer (largest = 1)")
    axes.set_xlabel(
        f"the {len(chosen)} nodes that weigh most; a lone one has no edge to another shown", fontsize="small"
    )
    axes.set(xticks=[], yticks=[], title=f"what weighs for node {graph.names[node]} (ringed)")
    return figure


def _springs(count: int, arcs: list[tuple[int, int]], centre: int, steps: int = 150) -> Any:
    """Places of a small graph: springs along edges, repulsion between all, the same in every run."""
    at = np.random.default_rng(0).normal(size=(count, 2))
    at[centre] = 0
    joined = np.zeros((count, count))
    for a, b in arcs:
        joined[a, b] = joined[b, a] = 1
    for step in range(steps):
        gap = at[:, None] - at[None]
        far = np.sqrt((gap**2).sum(-1)) + 1e-3
        force = (gap / far[..., None] * (0.3 / far**2 - joined * far)[..., None]).sum(1) - 0.05 * at
        at = at + np.clip(force, -1, 1) * 0.1 * (1 - step / steps)
    return at


def training_sizes(graph: Graph, scored: Mapping[str, Evidence]) -> Figure:
    """Error over the number of nodes of a graph."""
    figure, axes = panel(6)
    for name, evidence in scored.items():
        c = evidence.columns
        wrong = (c["truth"] != c["guess"]) if "guess" in c else np.abs(c["value"] - c["truth"])
        size = graph.sizes[c["case"].astype(int)]
        bounds = np.unique(np.quantile(size, np.linspace(0, 1, 6)))
        bins = np.clip(np.digitize(size, bounds[1:-1]), 0, max(0, len(bounds) - 2))
        count = np.bincount(bins)
        mean = np.bincount(bins, wrong.astype(float)) / np.maximum(count, 1)
        middle = np.bincount(bins, size.astype(float)) / np.maximum(count, 1)
        axes.plot(middle[count > 0], mean[count > 0], "o-", label=name, alpha=1 if name == "model" else 0.7)
    axes.set(xlabel="nodes of a graph", ylabel="error", title="error by size, test part")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _embeddings(task: GraphTask, model: GraphNet, graph: Graph, split: Split, fitted: Fitted) -> Any:
    items = task.items(graph, split, fitted, "test")
    device = model.temperature.device
    model.eval()
    with torch.no_grad():
        if task.level == "node":
            batch = {k: v.to(device) for k, v in items.batch(range(len(items))).items()}
            return model.embedding(batch).flatten(0, 1)[batch["nodes"]].cpu().numpy()
        found = []
        for start in range(0, len(items), 64):
            rows = items.batch(range(start, min(len(items), start + 64)))
            part = {k: v.to(device) for k, v in rows.items()}
            found.append(model.read(model.embedding(part), part.get("mask")).cpu().numpy())
    return np.concatenate(found)


def all_figures(
    task: GraphTask, model: GraphNet, graph: Graph, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
) -> dict[str, Figure]:
    """Title -> picture."""
    test = split.parts["test"]
    found = {"Degrees and homophily": degree_panel(graph)}
    assert graph.target is not None
    if len(test) >= 8:
        values = _embeddings(task, model, graph, split, fitted)
        found["Embedding map"] = embedding_map(values, graph.target[test], graph.classes)
    if graph.classes:
        found["Confusion"] = confusion_picture(scored["model"], graph.classes)
        found["Calibration"] = calibration_picture(scored["model"])
    if task.level == "graph":
        found["Error by size"] = training_sizes(graph, scored)
        return found
    found["Error by degree"] = error_by_degree(graph, scored)
    node = int(test[np.argsort(graph.degree()[test], kind="stable")[len(test) // 2]])  # of middling degree
    items: Any = task.items(graph, split, fitted, "test")
    at = int(np.flatnonzero(test == node)[0])
    batch = {k: v.to(model.temperature.device) for k, v in items.batch([at]).items()}
    members = items.members(at) if hasattr(items, "members") else np.arange(graph.nodes)  # all, or those of a piece
    found["What weighs for one node"] = influence_picture(model, graph, batch, node, members)
    return found
