"""Errors that keep a model from being loaded or a job from running; each message is one sentence that names the cure.

::

    HandlerError              a command prints it as "Error: …" and exits with status 1
    ├── ArchiveError          the archive is damaged, incomplete or of another format
    ├── SettingsError         the handler section of model-config.yaml is wrong
    ├── DeviceError           the GPU that the worker was given cannot be used
    ├── PrecisionError        the precision is unknown, or this machine cannot compute in it
    ├── EngineError           the engine is unknown, or cannot run here
    └── PredictError          ``maskrcnn predict`` cannot go on

Bad requests have a family of their own, :mod:`handler.api.errors`: they are answered, not raised.
"""

from __future__ import annotations

import click


class HandlerError(click.ClickException):
    """Something that the user can fix."""


class ArchiveError(HandlerError):
    """The archive cannot be served."""


class SettingsError(HandlerError):
    """``model-config.yaml`` holds an unknown key or a wrong value."""


class DeviceError(HandlerError):
    """The GPU that the worker was given cannot be used."""


class PrecisionError(HandlerError):
    """The requested precision is unknown, or this machine cannot compute in it."""


class EngineError(HandlerError):
    """The requested engine is unknown, or cannot run here."""


class PredictError(HandlerError):
    """``maskrcnn predict`` cannot go on."""
