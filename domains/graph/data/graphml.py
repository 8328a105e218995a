"""GraphML: the XML that Gephi, yEd, igraph and NetworkX write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from shared_backbones.errors import BadInput

from .assemble import Rules, assemble
from .graph import Graph
from .tables import Schema, _features, target_of

_TYPES = {"boolean": "bool", "int": "Int64", "long": "Int64", "float": "float64", "double": "float64"}


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _cells(element: Any, keys: dict[str, tuple[str, str, str | None]], domain: str) -> dict[str, Any]:
    row = {name: default for of, name, default in keys.values() if of in (domain, "all") and default is not None}
    for data in element:
        if _local(data.tag) == "data" and data.get("key") in keys:
            row[keys[data.get("key")][1]] = (data.text or "").strip()
    return row


def read_graphml(path: Path, schema: Schema, rules: Rules) -> Graph:
    """A graph whose node data are features and target, by the same schema as a table. Directedness is the file's own
    (``edgedefault``). Raises BadInput where it is damaged, mixes both kinds of edges, or declares entities.
    """
    text = path.read_bytes()
    if re.search(rb"<!\s*(DOCTYPE|ENTITY)", text[:100_000], re.IGNORECASE):
        raise BadInput(f"{path}: the file declares a DOCTYPE or entities, which can be made to grow without bound")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise BadInput(f"{path}: not XML ({error})") from None
    graphs = [g for g in root.iter() if _local(g.tag) == "graph"]
    if len(graphs) != 1:
        raise BadInput(f"{path}: one graph is wanted, the file holds {len(graphs)}")
    keys: dict[str, tuple[str, str, str | None]] = {}
    types: dict[str, str] = {}
    for key in root.iter():
        if _local(key.tag) == "key":
            default = next((d.text for d in key if _local(d.tag) == "default"), None)
            name = key.get("attr.name") or key.get("id", "")
            keys[str(key.get("id", ""))] = (str(key.get("for", "all")), str(name), default)
            types[str(name)] = _TYPES.get(key.get("attr.type", "string"), "object")
    nodes = [e for e in graphs[0] if _local(e.tag) == "node"]
    links = [e for e in graphs[0] if _local(e.tag) == "edge"]
    default = graphs[0].get("edgedefault", "undirected")
    kinds = {e.get("directed", str(default == "directed").lower()) for e in links}
    if len(kinds) > 1:
        raise BadInput(f"{path}: directed and undirected edges in one file; split them, or write one kind")
    directed = kinds == {"true"} if kinds else default == "directed"
    place = {e.get("id"): i for i, e in enumerate(nodes)}
    pairs = np.array([[place.get(e.get(end), -1) for e in links] for end in ("source", "target")], np.int64)
    lost = (pairs < 0).any(0)
    if lost.any():
        edge = links[int(np.flatnonzero(lost)[0])]
        raise BadInput(
            f"{path}: edge {edge.get('source')!r} - {edge.get('target')!r} names a node that is not there "
            f"({int(lost.sum())} of {len(links)} edges)"
        )

    def frame(elements: list[Any], domain: str) -> pd.DataFrame:
        table = pd.DataFrame([_cells(e, keys, domain) for e in elements], index=range(len(elements)))
        for name in table.columns:
            if types.get(name) in ("Int64", "float64"):
                table[name] = pd.to_numeric(table[name], errors="coerce")
        return table

    table, edge_table = frame(nodes, "node"), frame(links, "edge")
    goal = schema.target or next((c for c in ("target", "label", "y", "class") if c in table.columns), None)
    target: Any = None
    classes: tuple[str, ...] = ()
    if goal is not None and goal in table.columns:
        target, classes = target_of(path, table[goal], schema)
    features, columns = _features(table, path, {goal or "", schema.split, schema.id}, schema)
    weight = edge_table[schema.weight].to_numpy(np.float32) if schema.weight in edge_table.columns else None
    return assemble(
        str(path),
        features,
        pairs,
        Rules(directed, rules.self_loops, rules.duplicates, rules.edgeless),
        weight=weight,
        ids=np.array([e.get("id") for e in nodes]),
        columns=columns,
        target=target,
        classes=classes,
    )
