"""What goes wrong on the user's side, told in one sentence."""


class UserError(Exception):
    """Something that the user can mend.

    The message is one sentence that says what is wrong and what to do about it. The command line prints it as
    ``error: …`` and exits with status 1; no stack trace is shown.
    """
