"""Detecting: where a known spectrum hides, and where something does not belong."""
