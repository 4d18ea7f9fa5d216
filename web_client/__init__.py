"""The page that shows the masks, and the thin server behind it. The command line is ``python -m
web_client``."""

from web_client.app import create_app

__all__ = ["create_app"]
