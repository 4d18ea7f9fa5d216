"""Training: the recipe, what feeds it, and how it is launched."""
