"""Options that all graph tasks share, and those of the tasks on nodes and on whole graphs."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..task import TaskConfig
from .data import Rules, Schema

Baseline = Literal["mlp", "label_propagation", "sgc", "gcn_tuned", "gps_full_attention"]


class SplitOptions(BaseModel):
    """Which elements (nodes or graphs) train, validate and test."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Literal["auto", "given", "per_class", "fractions", "folds"] = Field(
        "auto",
        description="given: the source's own parts; per_class: so many training cases of each class; fractions; folds: "
        "the folds of sets of graphs. auto: given where the source has parts, else fractions (graphs: folds)",
    )
    index: int = Field(0, ge=0, description="which of the given splits, of the random draws, or of the folds")
    per_class: int = Field(20, ge=1, description="training cases of each class (per_class)")
    val: int = Field(500, ge=1, description="validation cases (per_class)")
    test: int = Field(1000, ge=1, description="test cases (per_class)")
    fractions: tuple[float, float, float] = Field((0.5, 0.25, 0.25), description="train, validation, test (fractions)")
    folds: int = Field(10, ge=2, description="folds, each the test part once (folds)")
    inner: float = Field(0.1, gt=0, lt=1, description="share of a training part that validates where none is given")
    seed: int = Field(0, ge=0, description="of the random draws; the draw itself is chosen by index")

    @model_validator(mode="after")
    def _whole(self) -> SplitOptions:
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"split.fractions must be three positive numbers that sum to 1, got {self.fractions}")
        return self


class EncodingOptions(BaseModel):
    """What each node is told about its place. Computed once, kept by content; 0 leaves one out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    laplacian: int = Field(0, ge=0, description="eigenvectors of the normalised Laplacian, smallest first")
    random_walk: int = Field(0, ge=0, description="return probabilities of random walks of 1 .. k steps")
    degree: bool = Field(False, description="logarithm of one plus the degree")
    distance: int = Field(0, ge=0, description="shortest paths (steps) to k anchors of the largest degree")

    @property
    def width(self) -> int:
        return self.laplacian + self.random_walk + int(self.degree) + self.distance


class GraphOptions(TaskConfig):
    """How a source is read, split and encoded."""

    edges: str | None = Field(None, description="edge table; default: edges.csv (.tsv, .parquet) beside the node table")
    directed: bool = Field(False, description="whether an edge is felt at its target only; never guessed from the data")
    id: str = Field("id", description="column of node ids")
    target: str | None = Field(None, description="target column; default: target, label or y")
    target_kind: Literal["class", "value"] = Field("class", description="classification, or regression")
    columns: dict[str, Literal["number", "category", "ignore"]] = Field(
        default_factory=dict, description="what a column of either table is; default: number"
    )
    split_column: str = Field("split", description="column of train, val, test; it need not be there")
    ends: tuple[str, str] = Field(("source", "target"), description="columns of an edge's ends")
    time: str = Field("time", description="column of an edge's time")
    weight: str = Field("weight", description="column of an edge's weight")
    self_loops: Literal["drop", "keep"] = Field("drop", description="what is done with self-loops")
    duplicates: Literal["merge", "keep"] = Field("merge", description="equal edges: first kept and weights summed")
    scale: Literal["auto", "row", "standard", "none"] = Field(
        "auto",
        description="features: rows of length 1, or mean 0 and deviation 1 over training nodes; auto: row where they "
        "are counts that are mostly 0",
    )
    split: SplitOptions = SplitOptions()
    encodings: EncodingOptions = EncodingOptions()
    simulated: dict[str, float] = Field(default_factory=dict, description="for --data simulated: seed, nodes, ...")

    def schema_of(self, **known: Any) -> Schema:
        """How tables are read. ``known``: what a finished model holds new tables to."""
        return Schema(
            id=self.id,
            target=self.target,
            target_kind=self.target_kind,
            kinds=self.columns,
            split=self.split_column,
            ends=self.ends,
            time=self.time,
            weight=self.weight,
            **known,
        )

    def rules(self) -> Rules:
        return Rules(self.directed, self.self_loops, self.duplicates)


class TunedOptions(GraphOptions):
    """What the tasks on nodes and on whole graphs share beyond that."""

    tune_from: str | None = Field(
        None,
        description="folder of a finished run of the same preset and data: its model is kept as it is, and small "
        "graph networks on its own attention are learned beside it",
    )


class NodeOptions(TunedOptions):
    """Options of `graph/node`."""

    baselines: tuple[Baseline, ...] = Field(
        ("mlp", "label_propagation", "sgc", "gcn_tuned", "gps_full_attention"),
        description="methods scored beside the model; full attention is left out above 5000 nodes",
    )
    baseline_epochs: int = Field(200, ge=1, description="most epochs of a baseline that is a network")
    sample: tuple[int, ...] = Field(
        (),
        description="neighbours drawn per node at each hop while training, such as [10, 5] (-1: all); empty: the whole "
        "graph in every batch. Set train.batch_size too: it is then the number of nodes that a batch trains",
    )
    part_nodes: int = Field(
        0, ge=0, description="train on parts of so many neighbouring nodes, train.batch_size parts a batch; 0: off"
    )

    two_hop: int = Field(
        0,
        ge=0,
        description="every node as itself and so many nodes drawn within two hops, each with the means of two hops "
        "around it; for presets of attention such as large_gt; 0: off",
    )

    @model_validator(mode="after")
    def _one_way(self) -> NodeOptions:
        if sum(map(bool, (self.sample, self.part_nodes, self.two_hop))) > 1:
            raise ValueError("sample, part_nodes and two_hop are ways of training on a large graph: set one of them")
        if any(fanout < -1 or fanout == 0 for fanout in self.sample):
            raise ValueError(f"sample holds numbers of neighbours (at least 1), or -1 for all, got {list(self.sample)}")
        return self


class GraphSetOptions(TunedOptions):
    """Options of `graph/graph`."""
