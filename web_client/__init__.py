"""The Flask app: the page and the public API. It knows the model's server by HTTP alone."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from web_client.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Import Flask when the app is asked for: ``maskrcnn --help`` imports this package, too."""
    if name == "create_app":
        from web_client.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
