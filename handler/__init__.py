"""Everything that runs inside a TorchServe worker, and the same predictor without a server."""
