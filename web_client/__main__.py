"""``python -m web_client``: the same as ``maskrcnn web``."""

import sys

from maskrcnn import run
from web_client.cli import web

sys.exit(run(web, "python -m web_client"))
