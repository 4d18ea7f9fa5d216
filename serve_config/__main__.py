"""``python -m serve_config COMMAND`` is ``maskrcnn serve COMMAND``."""

import sys

try:
    from maskrcnn import run
    from serve_config.cli import serve
except ModuleNotFoundError as error:
    sys.exit(
        f"Error: the Python package {error.name} is missing: run `make install`, and use .venv/bin/python"
    )

if __name__ == "__main__":
    sys.exit(run(serve, "python -m serve_config"))
