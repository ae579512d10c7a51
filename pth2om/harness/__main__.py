"""``python -m pth2om.harness``: pytest as a watched child; see `pth2om.harness.watching`."""

import sys

from pth2om.harness.watching import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
