"""Entry point of a clone: `python run.py -m ratio=0.3,0.5`."""

import sys

if __name__ == "__main__":
    try:
        from stat_repro.run.cli import main
    except KeyboardInterrupt:  # this takes seconds
        print("interrupted: nothing was started", file=sys.stderr)
        sys.exit(130)
    main()
