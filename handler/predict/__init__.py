"""The same answers as the server's, for photos and folders: ``maskrcnn predict ARCHIVE SOURCE… --output DIR``.

``job`` runs a job: ``sources`` lists its photos, ``local`` (this machine) or ``cluster`` (Ray) predicts them, and
``writers`` keeps the answers. ``worker`` is the only module that runs beside the archive's own code, and never
imports ours.
"""
