"""What goes wrong on the user's side, told in one sentence."""


class ServeError(Exception):
    """Something that the user can mend; the message says what is wrong and what to do about it."""
