"""Entry point of a clone: `python run.py -m ratio=0.3,0.5`."""

from stat_repro.run.cli import main

if __name__ == "__main__":
    main()
