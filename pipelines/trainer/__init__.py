"""The training loop: exact to resume, the same on one device or many."""
