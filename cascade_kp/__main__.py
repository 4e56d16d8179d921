"""``python -m cascade_kp`` is ``cascade-kp``."""

import sys

from cascade_kp.cli import main

if __name__ == "__main__":
    sys.exit(main())
