"""Decode images, encode masks, render pictures."""
