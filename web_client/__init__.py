"""The Flask app: the page and the public API. It knows the model's server by HTTP alone."""
