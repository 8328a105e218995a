"""Which reader a path needs."""

from __future__ import annotations

from pathlib import Path

from shared_backbones.errors import BadInput

from .arrays import is_arrays, read_arrays
from .assemble import Rules
from .graph import Graph
from .graphml import read_graphml
from .npz import read_npz
from .planetoid import planetoid_name, read_planetoid
from .tables import Schema, read_tables, table_beside
from .tensors import read_tensors
from .tu import read_tu, tu_file

FORMATS = (
    "a folder with nodes.csv and edges.csv (or .parquet), a node table with --set edges=FILE, .npz, .graphml, "
    ".pt or .safetensors of tensors, a folder of features.npy and "
    "edges.npy, a folder of Planetoid files (ind.NAME.*), a folder of TU files"
)


def read_graph(path: Path, schema: Schema, rules: Rules, edges: str | None = None) -> Graph:
    """The graph of a file or folder, by its layout. Raises BadInput where there is none that we know."""
    if not path.exists():
        raise BadInput(f"{path}: no such file or folder. Give {FORMATS}")
    if path.is_dir():
        return _of_folder(path, schema, rules, edges)
    name = path.name.lower()
    if name.endswith(".npz"):
        return read_npz(path, rules)
    if name.endswith((".graphml", ".xml")):
        return read_graphml(path, schema, rules)
    if name.endswith((".pt", ".pth", ".safetensors")):
        return read_tensors(path, rules)
    if name.endswith((".csv", ".csv.gz", ".tsv", ".parquet")):
        other = Path(edges) if edges else table_beside(path.parent, "edges")
        if other is None:
            raise BadInput(f"{path}: no edge table: name it with --set edges=FILE, or put edges.csv beside the nodes")
        return read_tables(path, other, schema, rules)
    if name.endswith("_a.txt") or (path.parent / "10fold_idx").is_dir():
        return read_tu(path, rules)
    raise BadInput(f"{path}: no known graph format. Known: {FORMATS}")


def _of_folder(path: Path, schema: Schema, rules: Rules, edges: str | None) -> Graph:
    if is_arrays(path):
        return read_arrays(path, rules)
    nodes, links = table_beside(path, "nodes"), Path(edges) if edges else table_beside(path, "edges")
    if nodes is not None and links is not None:
        return read_tables(nodes, links, schema, rules)
    if nodes is not None or links is not None:
        lacking = "edges" if links is None else "nodes"
        raise BadInput(
            f"{path}: {(nodes or links).name} is there, and no {lacking}.csv (.tsv, .parquet)"  # type: ignore[union-attr]
            + ("; put it there, or name it with --set edges=FILE" if links is None else "")
        )
    name = planetoid_name(path)
    if name is not None:
        return read_planetoid(path, name, rules)
    tu = tu_file(path)
    if tu is not None:
        return read_tu(tu, rules)
    raise BadInput(f"{path}: no known graph in this folder. Known: {FORMATS}")
