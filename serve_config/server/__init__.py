"""TorchServe as a process: its configuration, start, stop, state and logs."""
