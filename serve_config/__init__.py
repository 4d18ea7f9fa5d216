"""Configure, start, watch and swap TorchServe: the commands ``maskrcnn serve`` and ``maskrcnn doctor``."""
