"""Restoring cubes: noise removed, resolution gained."""
