"""The program `stat-repro` (`python run.py`): one run from configuration to stored record.

The only room that joins all stages of a run; nothing else imports it.

May use: allocation, api, assets, calibration, config, cost, data, entry, evaluation, export,
finetune, measure, methods, models, parallel, paths, plan, progress, reporting, results, surgery,
workloads.
"""

import sys


def program() -> None:
    """Start `stat-repro`: its libraries take half a second, in which Ctrl-C may come."""
    try:
        from stat_repro.run.cli import main
    except KeyboardInterrupt:
        print("interrupted: nothing was started", file=sys.stderr)
        sys.exit(130)
    main()
