"""Whole scenes, volumes and recordings in bounded memory: plan, halo, blend, sink."""
