"""Unmixing: of which materials a pixel is made, and how much of each."""
