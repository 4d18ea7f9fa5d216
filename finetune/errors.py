"""Errors that the user can fix."""

import click


class UserError(click.ClickException):
    """A problem that the user can fix.

    The message is one sentence: what is wrong, then what to do about it. The command line prints it as
    ``Error: …`` without a stack trace and exits with status 1.
    """
