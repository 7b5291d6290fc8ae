"""The commands of `stat-repro` that need no Hydra; any other first word belongs to a run."""

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from stat_repro.config import ConfigError
from stat_repro.config.run import DTYPES
from stat_repro.config.torchrun import several_processes
from stat_repro.entry import at_least, folder, guarded, share
from stat_repro.paths import results_dir
from stat_repro.run.compose import options_of

_RUNS = "Anything else is a run or a sweep (docs/sweeps.md): stat-repro ratio=0.5"


def main(argv: Sequence[str]) -> int:
    """Carry out one command."""
    if argv[:1] == ["export"]:  # it has options of its own
        from stat_repro.export.__main__ import main as export

        return export(argv[1:])
    options = parser().parse_args(argv)
    if several_processes():
        from stat_repro.parallel import joined, world

        with joined():  # torchrun would end the others before one has said why
            return guarded(_refuse, str) if world().rank == 0 else 1
    return guarded(lambda: options.work(options), lambda: "the same command starts again")


def _refuse() -> None:
    raise ConfigError(
        "stat-repro prune, eval, runs, show and verify: expected one process; got several, as "
        "torchrun starts them; choose the same command without it, or torchrun run.py for a run"
    )


def _of(module: str, function: str) -> Callable[[argparse.Namespace], int | None]:
    """The work of a command in another module of this room, which is imported when it starts."""
    return lambda options: getattr(import_module(f"stat_repro.run.{module}"), function)(options)


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

    def command(name: str, work: Callable[..., Any], what: str, example: str) -> Any:
        example = f"example: stat-repro {name} {example}"
        one = commands.add_parser(name, help=what, description=what, epilog=example)
        one.set_defaults(work=work)
        return one.add_argument

    what = "prune a model of your own, evaluate it before and after, and save it"
    prune, evaluate = (_of("own_model", function) for function in ("prune", "evaluate"))
    add = command("prune", prune, what, "my-model --data mine.csv --ratio 0.4 --out my-model-40")
    _add_model_and_data(add)
    add("--out", type=folder, required=True, help="new folder for the pruned model")
    add("--test", help="file to evaluate (by default a fixed fifth of --data is held out)")
    add("--ratio", type=share, help="share of the prunable MACs that is removed (0.5)")
    names = options_of("pruning")
    what = f"{', '.join(names)} (stat)"
    add("--method", choices=names, default="stat", metavar="NAME", help=what)
    add("--examples", type=at_least(1), help="calibration examples (512, or 128 windows of text)")
    add("--seed", type=at_least(0), help="seed of the draw of calibration examples (0)")
    add("--round-to", type=at_least(1), help="multiple that kept neurons are rounded to (1)")
    names = [name for name in options_of("recovery") if name != "none"]
    add("--heal", choices=names, help="train the pruned model afterwards, see docs/recovery.md")
    add("--dry-run", action="store_true", help="say what would be done and how long; write nothing")
    add = command("eval", evaluate, "evaluate a saved model", "my-model-40 --data test.csv")
    _add_model_and_data(add)
    add("--dense", metavar="MODEL", help="compare with this model: KL and agreement")
    what = "write a saved model in the form of another program"
    command("export", main, what, "my-llama-20 --format gguf")  # which passes it on
    add = command("runs", _runs, "list stored runs", "--study mine --where method=stat ratio=0.5")
    add("--study", help="one study (all)")
    what = "only runs with these values"
    add("--where", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help=what)
    add("--compare", nargs=2, default=[], metavar="RUN", help="what differs between two runs")
    add = command("show", _show, "show a run: result, plan, command, environment", "mine/RUN_ID")
    add("run", help="a run id, a part of one, a record's file, or the folder of a pruned model")
    what = "measure points of a study again and compare them with their records"
    add = command("verify", _of("verify", "verify"), what, "movie_reviews_minilm --random 3")
    add("study", help="a stored study, such as movie_reviews_minilm")
    points = commands.choices["verify"].add_mutually_exclusive_group(required=True)
    points.add_argument("--point", metavar="RUN", help="one point, by its id or a part of it")
    points.add_argument("--random", type=at_least(1), metavar="N", help="N points at random")
    points.add_argument("--all", action="store_true", help="all points")
    add("--seed", type=at_least(0), help="seed of --random (by default drawn, and printed)")
    add("--dry-run", action="store_true", help="list the points, their commands and their seconds")
    what = "folder with the files and folders that the records name (the working folder)"
    add("--files", type=Path, default=Path(), help=what)
    add("--keep", type=folder, help="folder for the new records (by default not kept)")
    for name in ("runs", "show", "verify"):
        add = commands.choices[name].add_argument
        add("--results", type=Path, default=results_dir(), help="folder of the studies")
    return program


def _add_model_and_data(add: Any) -> None:
    add("model", metavar="MODEL", help="a folder, a name on the Hugging Face hub, or in conf/model")
    what = "text, csv, tsv, json, jsonl or parquet file, or a data set of conf/dataset; "
    what += "classifiers need a column of labels, models that answer questions a file like SQuAD's"
    add("--data", required=True, help=what)
    add("--text-column", help="column of the text in a table (text)")
    add("--label-column", help="column of the label in a table (label)")
    add("--dtype", choices=DTYPES, help="data type of the model (float32)")
    add("--device", help="auto, cpu, cuda, cuda:<i> or mps (auto)")
    what = "any other key of a run, such as dataset.max_length=256"
    add("--set", action="append", default=[], metavar="KEY=VALUE", help=what)


# The words that choose a command, and those that ask for this help.
COMMANDS = ("prune", "eval", "export", "runs", "show", "verify")


def chosen(argv: Sequence[str]) -> bool:
    """Whether a command line is for these commands, and not for Hydra."""
    return bool(argv) and (argv[0] in COMMANDS or list(argv) in (["-h"], ["--help"]))
