"""Data sets: anyone's annotations, the balloon photos and drawn balloons, in one layout.

``dataset`` defines that layout and is all that training and evaluation import.
"""
