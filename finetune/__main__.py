"""``python -m finetune``: the commands of this room; ``maskrcnn`` has them too."""

import sys

from finetune.cli import finetune
from maskrcnn import run

if __name__ == "__main__":
    sys.exit(run(finetune, "python -m finetune"))
