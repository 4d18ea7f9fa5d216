"""Balloons, and what is around them, drawn with numpy and OpenCV."""
