import sys

from handler.predict.cli import main

if __name__ == "__main__":
    sys.exit(main())
