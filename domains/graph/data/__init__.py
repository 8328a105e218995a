"""Graphs from files: every format ends in one :class:`Graph`."""

from .graph import Given, Graph, both_ways

__all__ = ["Given", "Graph", "both_ways"]
