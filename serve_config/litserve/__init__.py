"""LitServe in TorchServe's place, for the day that TorchServe must go: ``maskrcnn serve start --engine litserve``.

::

    clients ──► frontend.py ──► unix socket ──► worker.py: LitServe ──► the archive's own handler.service
                routes, keys,    one process per version, started, restarted and ended by versions.py
                queue, metrics

The frontend answers TorchServe's inference, management and metrics routes, in TorchServe's shapes. So the page, every
``maskrcnn serve`` command and every client work unchanged, and a swap works as it does there: the new version starts
beside the old, is probed, becomes the default, and the old one ends once it has answered everything.
"""

# What the frontend and a version's worker have in common. Bodies do not go through LitServe: 10 MB would be copied
# there from process to process.
BODIES = "b"  # Unix socket in the archive's folder: send a request's id, receive its body
SAMPLES = "x-samples"  # header of an answer: the metrics of its batch, a JSON list of name, value and labels
# files that a worker writes into the archive's folder before it is READY
WORKERS = "workers.json"  # the process ids of the workers
DESCRIPTION = "description.json"  # what the model says of itself
