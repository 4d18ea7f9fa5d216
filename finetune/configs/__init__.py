"""One YAML file per backbone, and the keys they may set."""
