"""Saves a photograph that scikit-image ships, so that the demo needs no network and no picture of ours.

The picture is NASA's portrait of Eileen Collins (public domain), 512 x 512 px.

Usage:
    python docs/examples/astronaut.py OUT.png
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from skimage import data


def main() -> int:
    """Writes the picture to the path given and returns an exit code."""
    if len(sys.argv) != 2:
        print(f"expected one path to write to, got {len(sys.argv) - 1} arguments", file=sys.stderr)
        return 2
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data.astronaut()).save(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
