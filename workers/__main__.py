"""`python -m workers`: see workers.pool."""

import sys

from hive.imports import uncollected

with uncollected():
    from workers.pool import main

if __name__ == "__main__":
    sys.exit(main())
