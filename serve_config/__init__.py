"""How TorchServe is configured, started, watched, and told to swap. The command line is ``python -m
serve_config``.
"""
