"""Data sets: balloon photos, synthetic balloons, anybody's VIA or COCO annotations, all in one layout.

``layout`` defines that layout and is all that training and evaluation need to import.
"""
