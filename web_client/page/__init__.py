"""The page: its routes, its templates, and the scripts and styles that run in the browser."""
