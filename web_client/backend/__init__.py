"""The model's server, which answers the predictions: TorchServe by HTTP, and its keys."""
