"""`python -m tfmix`: the command line."""

import sys

from tfmix.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
