"""The room's error family."""

try:
    from click import ClickException
except ModuleNotFoundError:  # `make doctor` runs before anything is installed
    ClickException = Exception  # type: ignore[misc, assignment]


class ServeError(ClickException):
    """Something the user can fix: one sentence says what is wrong and names the cure (exit status 1)."""
