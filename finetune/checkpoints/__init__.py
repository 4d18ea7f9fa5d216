"""Weights on disk: run folders, checkpoint files, and where initial weights come from."""
