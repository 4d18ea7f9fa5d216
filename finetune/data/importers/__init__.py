"""Annotation formats of other tools, read into the one layout."""
