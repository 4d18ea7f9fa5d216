import sys

from handler.batch.cli import main

if __name__ == "__main__":
    sys.exit(main())
