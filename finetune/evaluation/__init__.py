"""Evaluation: COCO metrics, reports, and comparisons of runs."""
