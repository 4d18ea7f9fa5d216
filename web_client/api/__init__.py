"""The public API: its routes, its description and the pictures that are sent to it."""
