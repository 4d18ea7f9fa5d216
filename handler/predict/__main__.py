import sys

from handler.predict.cli import predict
from maskrcnn import run

if __name__ == "__main__":
    sys.exit(run(predict, "python -m handler.predict"))
