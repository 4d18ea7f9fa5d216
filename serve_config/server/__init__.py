"""TorchServe as a process: configuration, start, stop, state and logs."""
