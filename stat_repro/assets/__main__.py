"""`python -m stat_repro.assets [NAME ...]`: fetch the named assets, or all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from stat_repro.assets.cache import AssetError, say
from stat_repro.assets.packages import fetch
from stat_repro.paths import cache_dir


def main(arguments: Sequence[str]) -> int:
    """Fetch the named assets, or every one; the exit status is 1 with one message if that fails."""
    try:
        fetch(arguments)
    except AssetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left in the cache", file=sys.stderr)
        return 130
    say(f"complete in {cache_dir()}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
