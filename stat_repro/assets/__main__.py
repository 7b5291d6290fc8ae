"""`python -m stat_repro.assets [NAME ...]`: fetch the named assets, or all but the large ones."""

import argparse
import sys
from collections.abc import Sequence

from stat_repro.assets.packages import fetch
from stat_repro.entry import guarded


def main(arguments: Sequence[str]) -> int:
    """Fetch the named assets, or every one but `packages.LARGE_MODELS`."""
    parser = argparse.ArgumentParser(prog="python -m stat_repro.assets", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a model or data set")
    names = parser.parse_args(arguments).names
    return guarded(
        lambda: fetch(names),
        lambda: "nothing half-written was left in the cache; the same command goes on",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
