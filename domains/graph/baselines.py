"""What a sceptic would try first on nodes: features alone, labels alone, smoothed features, tuned networks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_backbones.layout import Layout
from shared_backbones.mixers.neighborhood import Convolution, ends, gathered, symmetric
from shared_backbones.presets import Preset, parse_preset

from ..scoring import class_evidence, softmax, value_evidence
from ..task import PARTS, Evidence, Fitted, Split
from .batches import WholeGraph
from .config import NodeOptions
from .data import Graph
from .encodings import encodings
from .model import GraphNet

MOST_ATTENDED = 5000  # nodes: the memory of full attention grows with their square
PATIENCE = 50  # epochs of a small network without a better validation loss
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)

_SENTENCE = """
paper: "{paper}"
stem: nodes
stages:
  - dim: 64
    placement: pre
    norm: {norm}
    layers: [{layers}]
model: {{input_dropout: {drop}, dropout: {drop}, head_dropout: {drop}, activation: relu}}
"""


def _sentence(name: str, layers: str, drop: float, norm: str = "none") -> Preset:
    return parse_preset(name, _SENTENCE.format(paper=name, layers=layers, drop=drop, norm=norm))


class PlainGcn(nn.Module):
    """Two or three graph convolutions with ReLU and dropout; with ``residual`` also a skip path and a layer norm."""

    def __init__(self, fitted: Fitted, layers: int, dropout: float, residual: bool) -> None:
        super().__init__()
        self.inner = GraphNet(fitted, _sentence("gcn", "{mixer: identity, channel: none}", dropout), "node")
        self.convolutions = nn.ModuleList(Convolution(64) for _ in range(layers - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(64) if residual else nn.Identity() for _ in range(layers - 1))
        self.dropout, self.residual = dropout, residual

    def smooth(self, x: Tensor, layout: Layout) -> Tensor:
        """D^-1/2 (A + I) D^-1/2 x, of the first and the last layer, whose weights are the stem's and the head's."""
        flat = x.flatten(0, 1)
        weight, own = symmetric(ends(layout), flat)
        return (gathered(flat, ends(layout), weight) + own * flat).reshape(x.shape)

    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "n T"]:
        net = self.inner
        x = net.stem.features(batch)
        layout = net.stem.layout(batch, x.shape[1])
        x = F.dropout(F.relu(self.smooth(x, layout)), self.dropout, self.training)
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            if number + 1 == len(self.convolutions) and not self.residual:
                break
            y = convolution(x, layout)
            x = F.dropout(F.relu(norm(x + y) if self.residual else y), self.dropout, self.training)
        out = self.smooth(net.head(x), layout).flatten(0, 1)
        return out[batch["nodes"]] if "nodes" in batch else out


def train_small(
    model: nn.Module, train: Mapping[str, Tensor], val: Mapping[str, Tensor], decay: float, epochs: int
) -> float:
    """Adam with decay on all weights, the epoch with the least validation loss kept; returns that loss."""

    def loss(batch: Mapping[str, Tensor]) -> Tensor:
        out, target = model(batch), batch["target"]
        net: Any = model.inner if isinstance(model, PlainGcn) else model
        if target.dtype == torch.int64:
            return F.cross_entropy(out, target)
        return F.mse_loss(out[:, 0], (target - net.target_mean) / net.target_std)

    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=decay)
    best, kept, stale = float("inf"), copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        with torch.enable_grad():
            loss(train).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            now = float(loss(val))
        if now < best:
            best, kept, stale = now, copy.deepcopy(model.state_dict()), 0
        else:
            stale += 1
        if stale >= PATIENCE:
            break
    model.load_state_dict(kept)
    return best


def _networks(fitted: Fitted, nodes: int) -> dict[str, list[tuple[Callable[[], nn.Module], float]]]:
    """Name -> variants (how to build, weight decay), of which validation chooses one."""
    gps = "{mixer: parallel, inner: [{mixer: graph_convolution}, {mixer: attention, heads: 4}], times: 2}"

    def net(preset: Preset) -> Callable[[], nn.Module]:
        return lambda: GraphNet(fitted, preset, "node")

    def gcn(layers: int, dropout: float, residual: bool) -> Callable[[], nn.Module]:
        return lambda: PlainGcn(fitted, layers, dropout, residual)

    mlp = [(net(_sentence("mlp", "{mixer: identity, channel: none}", drop)), 5e-4) for drop in (0.5, 0.8)]
    found: dict[str, list[tuple[Callable[[], nn.Module], float]]] = {
        "mlp": mlp,
        "gcn_tuned": [
            (gcn(layers, drop, residual), 5e-4)
            for layers, drop, residual in ((2, 0.5, False), (2, 0.7, False), (2, 0.5, True), (3, 0.5, True))
        ],
    }
    if nodes <= MOST_ATTENDED:
        found["gps_full_attention"] = [(net(_sentence("gps", gps, 0.5, "layer")), 5e-4)]
    return found


def node_baselines(data: Graph, split: Split, fitted: Fitted, config: NodeOptions) -> dict[str, Evidence]:
    """Evidence of every baseline on the whole test part; every choice among variants is made on validation."""
    encoding = encodings(data, config.encodings)
    at = split.parts
    parts = {p: WholeGraph(data, fitted, encoding, at[p]) for p in PARTS}
    batches: dict[str, Mapping[str, Tensor]] = {p: items.batch(range(len(items))) for p, items in parts.items()}
    scores: dict[str, Any] = {}
    for name, variants in _networks(fitted, data.nodes).items():
        if name in config.baselines:
            scores[name] = _best_network(variants, batches, config.baseline_epochs)
    if "label_propagation" in config.baselines:
        scores["label_propagation"] = label_propagation(data, split)
    if "sgc" in config.baselines:
        scores["sgc"] = smoothed_regression(data, split, fitted)
    return {name: _evidence(data, at["test"], found) for name, found in scores.items()}


def _best_network(variants: Any, batches: Mapping[str, Mapping[str, Tensor]], epochs: int) -> Any:
    best, outputs = float("inf"), None
    for build, decay in variants:
        model = build()
        loss = train_small(model, batches["train"], batches["val"], decay, epochs)
        if loss < best or outputs is None:
            net = model.inner if isinstance(model, PlainGcn) else model
            with torch.no_grad():
                out = model(batches["test"])
                values = batches["test"]["target"].dtype != torch.int64
                best, outputs = loss, (net.value(out).numpy() if values else softmax(out.numpy()))
    return outputs


def _evidence(data: Graph, test: Any, found: Any) -> Evidence:
    assert data.target is not None
    if data.classes:
        return class_evidence(test, data.target[test].astype(np.int64), found)
    return value_evidence(test, data.target[test].astype(np.float64), np.asarray(found, np.float64))


def _smoother(data: Graph, loops: bool) -> Any:
    import scipy.sparse as sp

    a = sp.csr_matrix((np.ones(data.arcs), (data.edges[1], data.edges[0])), shape=(data.nodes, data.nodes))
    a = a + sp.eye(data.nodes) if loops else a
    root = sp.diags(1 / np.sqrt(np.maximum(np.asarray(a.sum(1)).ravel(), 1e-12)))
    return sp.csr_matrix(root @ a @ root)


def label_propagation(data: Graph, split: Split, steps: int = 50) -> Any:
    """Training labels spread along edges, Z <- alpha S Z + (1 - alpha) Y; alpha chosen on validation. No features."""
    assert data.target is not None
    train, val, test = (split.parts[p] for p in ("train", "val", "test"))
    classes = bool(data.classes)
    y = np.zeros((data.nodes, max(2, len(data.classes)) if classes else 2))
    if classes:
        y[train, data.target[train]] = 1
        prior = y[train].mean(0)
    else:
        y[train, 0], y[train, 1] = data.target[train], 1
        prior = np.array([float(np.mean(data.target[train])), 1.0])
    smooth, best, kept = _smoother(data, False), -np.inf, None
    for alpha in (0.5, 0.9, 0.99):
        z = y
        for _ in range(steps):
            z = alpha * (smooth @ z) + (1 - alpha) * y
        z = z + 1e-6 * prior
        found = z / z.sum(1, keepdims=True) if classes else z[:, 0] / z[:, 1]
        if classes:
            score = float((found[val].argmax(1) == data.target[val]).mean())
        else:
            score = -float(np.abs(found[val] - data.target[val]).mean())
        if score > best:
            best, kept = score, found
    assert kept is not None
    return kept[test]


def smoothed_regression(data: Graph, split: Split, fitted: Fitted) -> Any:
    """Logistic (or ridge) regression on features smoothed 1 .. 3 times; steps and penalty chosen on validation."""
    from sklearn.linear_model import LogisticRegression, Ridge

    assert data.target is not None
    x = np.asarray(data.features, np.float64)
    if fitted["scale"] == "row":
        x = x / np.maximum(np.sqrt((x**2).sum(1, keepdims=True)), 1e-12)
    x = (x - np.array(fitted["mean"])) / np.array(fitted["std"])
    smooth, best, kept = _smoother(data, True), -np.inf, None
    train, val, test = (split.parts[p] for p in ("train", "val", "test"))
    for _ in range(3):
        x = smooth @ x
        unit = x / max(1e-12, float(np.sqrt((x[train] ** 2).sum(1).mean())))
        for penalty in PENALTIES:
            if data.classes:
                model: Any = LogisticRegression(C=penalty * 10, max_iter=300)
                score = float(model.fit(unit[train], data.target[train]).score(unit[val], data.target[val]))
                proba = np.zeros((len(test), len(data.classes)))
                proba[:, model.classes_] = model.predict_proba(unit[test])
                found: Any = proba
            else:
                model = Ridge(alpha=1 / penalty).fit(unit[train], data.target[train])
                score, found = float(model.score(unit[val], data.target[val])), model.predict(unit[test])
            if score > best:
                best, kept = score, found
    return kept
