"""graph/link: which pairs of nodes are linked, ranked among pairs that are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from shared_backbones.errors import BadInput
from shared_backbones.presets import Preset

from ..task import PARTS, Audit, Batch, Evidence, Fitted, MetricFact, Part, Sink, Split, TaskConfig
from .batches import edge_inputs
from .config import GraphOptions
from .data import Graph
from .link_items import LinkItems, allowed, candidates, message_graph
from .link_model import LinkNet, link_loss
from .pairs import HEURISTICS, Similarity, arcs_of, inputs_of, is_in, keys_of, pair_table, split_pairs
from .ranking import FACTS, rank_evidence, rank_scores, ranks
from .source import open_graph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SPARSE = 0.1  # features with a smaller share of non-zeros are taken as sparse
PAIRS_AT_ONCE = 200_000


class LinkSplit(BaseModel):
    """Which links train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field("random", pattern="^(random|time)$", description="at random, or in order of the edges' times")
    fractions: tuple[float, float, float] = Field((0.8, 0.1, 0.1), description="train, validation, test")
    seed: int = Field(0, ge=0, description="of the draw")

    @model_validator(mode="after")
    def _whole(self) -> LinkSplit:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class LinkOptions(GraphOptions):
    """Options of `graph/link`."""

    split: LinkSplit = LinkSplit()  # type: ignore[assignment]
    negatives: int = Field(100, ge=1, description="negatives that a validation or test link is ranked among")
    train_negatives: int = Field(2, ge=1, description="negatives of a training link, drawn anew every time")
    top: int = Field(10, ge=1, description="new links written per node when predicting")


class Link:
    """Ranking of links. See domains.task.Task."""

    name: ClassVar[str] = "graph/link"
    summary: ClassVar[str] = "Missing links of a graph, ranked among pairs that are not linked."
    Config: ClassVar[type[TaskConfig]] = LinkOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 60, "batch_size": 4096, "lr": 5e-3, "weight_decay": 0.01, "patience": 15,
    }  # fmt: skip
    default_preset: ClassVar[str] = "graph_link"
    metric_facts: ClassVar[Mapping[str, MetricFact]] = FACTS

    def __init__(self, config: LinkOptions) -> None:
        self.config = config

    def open(self, source: str) -> Graph:
        """A checked graph from a path, a public data set's name or ``simulated``. Raises BadInput."""
        graph = open_graph(source, self.config, "node")
        if graph.graphs != 1:
            raise BadInput(f"{source}: holds {graph.graphs} graphs; links are predicted in one")
        return graph

    def split(self, data: Graph) -> Split:
        s = self.config.split
        return split_pairs(data, s.fractions, s.seed, s.by == "time")

    def audit(self, data: Graph, split: Split) -> list[Audit]:
        """Pairs in two parts in either direction, held-out arcs among messages, negatives that are links."""
        keys = {p: np.unique(keys_of(np.sort(split.parts[p], 1), data.nodes)) for p in PARTS}
        straddling = sum(len(k) for k in keys.values()) - len(np.unique(np.concatenate(list(keys.values()))))
        train = message_graph(data, split)
        held = np.unique(np.concatenate([keys["val"], keys["test"]]))
        leaking = int(is_in(keys_of(np.sort(train.edges.T, 1), data.nodes), held).sum())
        items = self._candidates(data, split, "test")
        links = np.unique(keys_of(pair_table(data)[0], data.nodes))
        wrong = is_in(keys_of(items.pairs[:, 1:].reshape(-1, 2), data.nodes), links)[items.there.reshape(-1)].sum()
        return [
            Audit("links or their reverses in two parts", float(straddling), straddling == 0, "would be read off"),
            Audit("held-out links among messages", float(leaking), leaking == 0, "would be read off"),
            Audit("test negatives that are links", float(wrong), int(wrong) == 0, "would be scored as errors"),
            Audit("negatives of training", "training links only", None, "they never ask what the test part links"),
        ]

    def poison(self, data: Graph, split: Split) -> Graph:
        """The graph without its test links: other parts must not notice, the test part cannot be scored."""
        return data.only_arcs(~arcs_of(data, split.parts["test"]))

    def fit(self, data: Graph, split: Split) -> Fitted:
        """Scaling of features, scaling of similarity scores over training links, and the schema."""
        x = np.asarray(data.features, np.float32)
        filled = float((x != 0).mean()) if x.size else 1.0
        scale = self.config.scale
        if scale == "auto":
            scale = "row" if filled < SPARSE and bool((x >= 0).all()) and x.shape[1] > 1 else "standard"
        mean, std = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if scale == "standard":
            mean, spread = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
            std = np.where(spread > 1e-8, spread, 1.0)
        train = message_graph(data, split)
        attr = edge_inputs(train)
        pairs = self._candidates(data, split, "train").pairs.reshape(-1, 2)
        scores = inputs_of(Similarity.of(train).scores(pairs))
        return {
            "columns": list(data.columns) or [f"x{i}" for i in range(x.shape[1])],
            "edge_columns": list(data.edge_columns),
            "directed": data.directed,
            "scale": scale,
            "sparse": scale != "standard" and filled < SPARSE,
            "mean": mean.tolist(),
            "std": std.tolist(),
            "edge_mean": [] if attr is None else attr.mean(0, dtype=np.float64).tolist(),
            "edge_std": [] if attr is None else np.maximum(attr.std(0, dtype=np.float64), 1e-6).tolist(),
            "encodings": self.config.encodings.model_dump(),
            "encoding_width": self.config.encodings.width,
            "score_mean": scores.mean(0).tolist(),
            "score_std": np.maximum(scores.std(0), 1e-6).tolist(),
        }

    def build(self, fitted: Fitted, preset: Preset) -> LinkNet:
        return LinkNet(fitted, preset)

    def initialise(self, model: nn.Module, data: Graph, split: Split) -> None:
        """The weights of similarity scores: a logistic regression on training links and their negatives."""
        from sklearn.linear_model import LogisticRegression

        assert isinstance(model, LinkNet)
        found = self._candidates(data, split, "train")
        scores = inputs_of(Similarity.of(message_graph(data, split)).scores(found.pairs.reshape(-1, 2)))
        x = (scores - model.score_mean.double().cpu().numpy()) / model.score_std.double().cpu().numpy()
        y = np.zeros(found.pairs.shape[:2])
        y[:, 0] = 1
        weight = np.full(y.shape, 0.5 / (y.shape[1] - 1))
        weight[:, 0] = 0.5
        fit = LogisticRegression(C=1.0, max_iter=1000).fit(x, y.reshape(-1), weight.reshape(-1))
        with torch.no_grad():
            model.similarity.weight.copy_(torch.from_numpy(fit.coef_))
            model.similarity.bias.copy_(torch.from_numpy(fit.intercept_))

    def items(self, data: Graph, split: Split, fitted: Fitted, part: Part) -> LinkItems:
        return LinkItems(
            data, split, fitted, part,
            count=self.config.train_negatives if part == "train" else self.config.negatives,
            seed=self.config.split.seed, options=self.config.encodings,
        )  # fmt: skip

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        assert isinstance(model, LinkNet)
        return link_loss(model, batch)

    def _parts(self, model: LinkNet, items: LinkItems) -> tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n K"]]:
        """Both logits of all fixed candidates; the graph is embedded once."""
        model.eval()
        device, pairs = model.gate.device, items.fixed.pairs
        step = max(1, PAIRS_AT_ONCE // pairs.shape[1])
        with torch.no_grad():
            h = model.embed({k: v.to(device) for k, v in items.graph_inputs().items()})
            found = [
                model.parts(h, torch.from_numpy(pairs[i : i + step]).to(device),
                            torch.from_numpy(items.scores(pairs[i : i + step])).to(device))
                for i in range(0, len(pairs), step)
            ]  # fmt: skip
        first, second = (torch.cat(part).double().cpu().numpy() for part in zip(*found, strict=True))
        return first, second

    def calibrate(self, model: nn.Module, data: Graph, split: Split, fitted: Fitted) -> None:
        """How much of the embeddings' part is kept: the share with the best reciprocal rank on validation."""
        assert isinstance(model, LinkNet)
        items = self.items(data, split, fitted, "val")
        start, learnt = self._parts(model, items)
        each = [start + share * learnt for share in SHARES]
        mrr = [float((1 / ranks(z[:, 0], z[:, 1:], items.fixed.there)[0]).mean()) for z in each]
        model.gate.fill_(SHARES[int(np.argmax(mrr))])

    def evidence(self, model: nn.Module, data: Graph, split: Split, fitted: Fitted, part: Part) -> Evidence:
        """One row per link, its source node the independent unit. Raises BadInput for a link that is no edge."""
        assert isinstance(model, LinkNet)
        self._held(data, split, part)
        items = self.items(data, split, fitted, part)
        start, learnt = self._parts(model, items)
        z = start + float(model.gate) * learnt
        return rank_evidence(split.parts[part][:, 0], z[:, 0], z[:, 1:], items.fixed.there)

    def baselines(self, data: Graph, split: Split, fitted: Fitted) -> Mapping[str, Evidence]:
        """Classical similarity scores on the training graph, and the bank of training edges."""
        found = self._candidates(data, split, "test")
        similarity, flat = Similarity.of(message_graph(data, split)), found.pairs.reshape(-1, 2)
        scores = dict(zip(HEURISTICS, similarity.scores(flat).T, strict=True))
        scores["edge-bank"] = similarity.edge_bank(flat)
        unit = split.parts["test"][:, 0]
        shaped = {name: s.reshape(found.pairs.shape[:2]) for name, s in scores.items()}
        return {name: rank_evidence(unit, z[:, 0], z[:, 1:], found.there) for name, z in shaped.items()}

    def metrics(self, evidence: Evidence) -> dict[str, float]:
        return rank_scores(evidence)

    def figures(
        self, model: nn.Module, data: Graph, split: Split, fitted: Fitted, scored: Mapping[str, Evidence]
    ) -> Mapping[str, Figure]:
        from .link_figures import draw

        degree = message_graph(data, split).degree()[split.parts["test"][:, 0]]
        return draw(scored, degree)

    def predict(self, model: nn.Module, fitted: Fitted, source: str, sink: Sink) -> dict[str, Any]:
        """The best new links of every node of a graph as links.csv: source, target, probability. Raises BadInput."""
        from .link_predicting import new_links

        assert isinstance(model, LinkNet)
        return new_links(self, model, fitted, source, sink)

    def _candidates(self, data: Graph, split: Split, part: Part) -> Any:
        """Fixed candidates without a network's inputs."""
        count = self.config.train_negatives if part == "train" else self.config.negatives
        random = np.random.default_rng((self.config.split.seed, PARTS.index(part)))
        return candidates(split.parts[part], allowed(data, split, part), count, data.nodes, random)

    @staticmethod
    def _held(data: Graph, split: Split, part: Part) -> None:
        pairs: Int[np.ndarray, "n 2"] = split.parts[part]
        missing = ~is_in(keys_of(pairs, data.nodes), np.unique(keys_of(pair_table(data)[0], data.nodes)))
        if missing.any():
            i, j = pairs[missing][0]
            raise BadInput(
                f"{data.manifest.source}: {int(missing.sum())} links of the {part} part are no edges of this graph, "
                f"first {data.names[i]} - {data.names[j]}: the split belongs to other data"
            )
