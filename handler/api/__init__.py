"""The HTTP contract: requests, options, responses, errors, settings, metrics."""
