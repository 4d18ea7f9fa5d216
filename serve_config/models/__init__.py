"""What TorchServe serves: archives, registration, swap, and requests."""
