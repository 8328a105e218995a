"""Pretraining on cubes without labels: what is hidden of them is told from the rest."""
