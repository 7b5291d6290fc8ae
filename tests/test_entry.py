"""Every command ends with one line and an exit status that says which end it was."""

import os
import signal
import subprocess
import sys
import threading
import tomllib
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from stat_repro.assets.cache import AssetError
from stat_repro.config import ConfigError
from stat_repro.entry import Terminated, guarded, is_expected

PRINTING = "from stat_repro.entry import *; sys.exit(guarded(lambda: print('x' * {}), str))"


def nothing_done():
    return "1 of 2 stored; the same command goes on"


def ended(error, capsys):
    def work():
        raise error

    status = guarded(work, nothing_done)
    printed = capsys.readouterr()
    assert printed.out == ""
    return status, printed.err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigError("ratio: expected 0 <= ratio < 1; got 2"), "ratio: expected 0 <= ratio < 1"),
        (AssetError("minilm: the disk is full"), "minilm: the disk is full"),
        (NotADirectoryError(20, "Not a directory", "out"), "[Errno 20] Not a directory: 'out'"),
        (MemoryError(), "MemoryError"),
        (BrokenProcessPool("a worker was killed"), "a worker was killed"),
        (SystemExit("launcher: expected basic; got joblib"), "launcher: expected basic"),
    ],
)
def test_what_says_itself_what_is_wrong_is_one_line(error, line, capsys):
    status, printed = ended(error, capsys)
    assert status == 1
    assert printed.startswith(f"error: {line}")
    assert printed.count("\n") == 1


def test_a_fault_of_the_program_stays_visible(capsys):
    status, printed = ended(ZeroDivisionError("by\nzero"), capsys)
    assert status == 1
    assert "Traceback" in printed
    assert printed.endswith("error: not foreseen, please report it: ZeroDivisionError: by zero\n")


def test_errors_of_a_package_that_is_only_below_are_not_expected():
    assert not is_expected(ValueError("x"))
    assert not is_expected(RuntimeError("x"))
    assert is_expected(type("NothingToShow", (ConfigError,), {})("x"))


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("command", "statuses"),
    [
        (["-c", PRINTING.format(1)], {141}),
        (["-c", PRINTING.format(99999)], {141}),
        (["run.py", "-m", "ratio=2,3", "hydra.sweep.dir={}"], {1, 141}),  # its points fail too
    ],
)
def test_a_command_whose_reader_is_gone_ends_quietly(command, statuses, unbuffered, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    root = Path(__file__).resolve().parents[1]
    ended = subprocess.run(
        [sys.executable, *(word.format(tmp_path) for word in command)],
        cwd=root,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "STAT_REPRO_LIGHT": "1"},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert ended.stderr == ""
    assert ended.returncode in statuses


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no full device")
@pytest.mark.parametrize("letters", [1, 99999])
def test_printing_to_a_full_disk_is_one_line(letters):
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", PRINTING.format(letters)],
            env={**os.environ, "STAT_REPRO_LIGHT": "1"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (ended.returncode, ended.stderr) == (1, "error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\xe9 \udcff"), ("utf-8", r"é \udcff")])
def test_names_that_the_terminal_cannot_show_are_escaped(encoding, shown):
    code = "from stat_repro.entry import *; exit(guarded(lambda: print('\\xe9 \\udcff'), str))"
    variables = {"PYTHONIOENCODING": f"{encoding}:strict", "STAT_REPRO_LIGHT": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, check=True)
    assert done.stdout.decode(encoding) == f"{shown}\n"


def test_another_broken_pipe_is_an_error(capsys):
    def work():
        raise BrokenPipeError(32, "Broken pipe")

    assert guarded(work, nothing_done) == 1
    assert capsys.readouterr().err == "error: [Errno 32] Broken pipe\n"


def test_exit_statuses_pass():
    assert guarded(lambda: None, nothing_done) == 0
    assert guarded(lambda: 3, nothing_done) == 3
    with pytest.raises(SystemExit) as end:
        guarded(lambda: exit(2), nothing_done)
    assert end.value.code == 2


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_work_with_its_account(number, status, capsys):
    cleaned = []

    def work():
        try:
            os.kill(os.getpid(), number)
            threading.Event().wait(10)
        finally:
            cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert guarded(work, nothing_done) == status
    assert capsys.readouterr().err == f"interrupted: {nothing_done()}\n"
    assert cleaned == [True]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("command", ["run.py", "-m stat_repro.sharded", "stat-repro show"])
def test_ctrl_c_while_libraries_are_loaded_is_one_line(command, tmp_path):
    for name in ("torch", "transformers", "hydra"):
        (tmp_path / f"{name}.py").write_text("import os, signal; os.kill(os.getpid(), 2)")
    root = Path(__file__).resolve().parents[1]
    entry = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["stat-repro"]
    module, _, function = entry.partition(":")
    program = tmp_path / "stat-repro"  # as pip writes it
    program.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())")
    ended = subprocess.run(
        [sys.executable, *command.replace("stat-repro", str(program)).split()],
        cwd=root,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 130
    assert ended.stderr == "interrupted: nothing was started\n"


def test_a_second_sigterm_finds_the_system_s_own_handler():
    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(10)
        except Terminated:
            return 5 if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL else 6

    assert guarded(work, nothing_done) == 5


def test_other_threads_and_handlers_are_left_alone():
    seen = []

    def work():
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=guarded, args=(work, nothing_done))
    thread.start()
    thread.join()
    mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        guarded(work, nothing_done)
    finally:
        signal.signal(signal.SIGTERM, mine)
    assert seen == [mine, signal.SIG_IGN]
