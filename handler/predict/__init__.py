"""The same predictor over folders, without a server: ``python -m handler.predict ARCHIVE INPUT OUTPUT``.

Ray Data spreads the photos over the cores, GPUs and nodes; see :mod:`handler.predict.cluster` for what it promises.
"""


class BatchError(Exception):
    """Something that the user can mend; the message is one sentence that says what is wrong and what to do."""
