"""Graphs from files: every format ends in one :class:`Graph`."""

from .assemble import Rules, assemble, with_card
from .graph import Given, Graph, both_ways
from .opening import read_graph
from .tables import Schema

__all__ = ["Given", "Graph", "Rules", "Schema", "assemble", "both_ways", "read_graph", "with_card"]
