"""The same answers as the server's, for photos, folders and films: ``maskrcnn predict MODEL SOURCE… --output DIR``.

``run`` runs a ``job``: ``sources`` lists its photos, ``models`` opens its model, which runs here, on Ray (``cluster``)
or behind an address, ``store`` keeps the answers, and ``writers``, ``pictures`` and ``films`` write what
was asked for. ``worker`` is the only module that runs beside an archive's own code, and never imports ours.
"""
