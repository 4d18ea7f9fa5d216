"""Everything that runs inside a TorchServe worker; ``build`` and ``predict`` use it without a server."""
