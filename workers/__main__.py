"""`python -m workers`: see workers.pool."""

import sys

from hive.imports import uncollected
from hive.utf8_mode import ensure_utf8

if __name__ == "__main__":
    ensure_utf8()

with uncollected():
    from workers.pool import main

if __name__ == "__main__":
    sys.exit(main())
