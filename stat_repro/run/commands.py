"""The commands of `stat-repro` that need no Hydra; any other first word belongs to a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stat_repro.entry import guarded
from stat_repro.paths import results_dir

_RUNS = "Anything else is a run or a sweep (docs/sweeps.md): stat-repro ratio=0.5"


def main(argv: Sequence[str]) -> int:
    """Carry out one command."""
    options = parser().parse_args(argv)
    return guarded(lambda: options.work(options), lambda: "the same command starts again")


def _runs(options: argparse.Namespace) -> None:
    from stat_repro.run.lookup import runs

    print(runs(options.results, options.study, options.where, options.compare))


def _show(options: argparse.Namespace) -> None:
    from stat_repro.run.lookup import show

    print(show(options.run, options.results))


def parser() -> argparse.ArgumentParser:
    """The words and options of all commands."""
    program = argparse.ArgumentParser(prog="stat-repro", epilog=_RUNS)
    commands = program.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, work: Callable[..., None], what: str, example: str) -> Any:
        example = f"example: stat-repro {name} {example}"
        one = commands.add_parser(name, help=what, description=what, epilog=example)
        one.set_defaults(work=work)
        return one.add_argument

    add = command("runs", _runs, "list stored runs", "--study mine --where method=stat ratio=0.5")
    add("--study", help="one study (all)")
    add("--where", nargs="+", default=[], metavar="KEY=VALUE", help="only runs with these values")
    add("--compare", nargs=2, default=[], metavar="RUN", help="what differs between two runs")
    add("--results", type=Path, default=results_dir(), help="folder of the studies")
    add = command("show", _show, "show a run: result, plan, command, environment", "mine/RUN_ID")
    add("run", help="a run id, a part of one, a record's file, or the folder of a pruned model")
    add("--results", type=Path, default=results_dir(), help="folder of the studies")
    return program


# The words that choose a command, and those that ask for this help.
COMMANDS = ("runs", "show")


def chosen(argv: Sequence[str]) -> bool:
    """Whether a command line is for these commands, and not for Hydra."""
    return bool(argv) and (argv[0] in COMMANDS or list(argv) in (["-h"], ["--help"]))
