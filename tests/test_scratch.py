"""What a killed process leaves under a temporary name goes with the next run; nothing else does."""

import errno
import os
import signal
import socket
import tempfile
from contextlib import ExitStack
from unittest.mock import Mock

import pytest
import torch

from stat_repro.calibration.batches import CalibrationError
from stat_repro.methods import stat_layers
from stat_repro.scratch import locked, replace_file, scratch
from stat_repro.surgery.checkpoint import complete_folder

CPU = torch.device("cpu")


def killed(make):
    """Fork, enter what `make` returns, and be killed inside."""
    child = os.fork()
    if child == 0:
        try:
            with ExitStack() as stack:
                made = stack.enter_context(make())
                if made is not None and made.is_dir():
                    (made / "model.safetensors").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:  # after an error the fork must not go on with the tests
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("folder", [True, False])
def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(folder, tmp_path):
    for _ in range(2):
        killed(lambda: scratch(tmp_path, "work", folder=folder))
        assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "work.notes.tmp").write_text("of the user")
    (tmp_path / "other.01234567.tmp").write_text("of another purpose")
    with scratch(tmp_path, "work", folder=folder) as first:
        assert first.is_dir() == folder
        with scratch(tmp_path, "work", folder=folder) as second:
            assert len({first, second} & set(tmp_path.iterdir())) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"work.notes.tmp", "other.01234567.tmp"}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class NoSites:
    def of_kind(self, kind):
        return ()


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: complete_folder(folder / "out"),
        lambda folder: stat_layers.working_folder(NoSites(), folder, CPU),
        lambda folder: stat_layers.working_folder(NoSites(), None, CPU),
    ],
    ids=["checkpoint", "spill", "spill in the system's folder"],
)
def test_big_folders_of_killed_runs_go_with_the_next_run(make, temporary):
    killed(lambda: make(temporary))
    assert len(list(temporary.iterdir())) == 1
    with make(temporary) as folder:
        assert list(temporary.iterdir()) == [folder]
        assert list(folder.iterdir()) == []
    assert [path.name for path in temporary.iterdir()] in ([], ["out"])


def test_spilled_activations_are_for_their_owner(temporary):
    with stat_layers.working_folder(NoSites(), None, CPU) as folder:
        assert folder.stat().st_mode & 0o077 == 0
    with pytest.raises(CalibrationError, match=r"spill=.*: expected an existing folder"):
        stat_layers.working_folder(NoSites(), temporary / "none", CPU).__enter__()


def test_a_figure_that_was_cut_off_is_replaced(tmp_path):
    killed(lambda: scratch(tmp_path, ".table.md", folder=False))
    replace_file(tmp_path / "table.md", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_nothing_is_removed_where_there_are_no_locks(tmp_path, monkeypatch):
    killed(lambda: scratch(tmp_path, "work", folder=True))

    def missing(*arguments, **options):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("stat_repro.scratch.lock_descriptor", missing)
    with scratch(tmp_path, "work", folder=True):
        assert len(list(tmp_path.iterdir())) == 2
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_folder_without_locks_is_named(tmp_path, monkeypatch, number):
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(number, os.strerror(number))))
    said = f"expected a file system with locks; got: {os.strerror(number)}; choose another folder"
    with pytest.raises(OSError, match=f"{said}: '{tmp_path}'"), locked(tmp_path / ".run.lock"):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_lock_that_is_a_note_of_another_machine_can_be_found(tmp_path, monkeypatch):
    """Where flock is not there at all, nobody can tell whether its process is alive."""
    monkeypatch.setattr("fcntl.flock", Mock(side_effect=OSError(errno.ENOSYS, "no flock")))
    note, told = tmp_path / ".run.lock", []

    def tell(line):
        told.append(line)
        note.unlink()

    killed(lambda: locked(note))
    note.write_text(note.read_text().replace(socket.gethostname(), "another"))
    with locked(note, "waiting", tell):
        assert told == [f"waiting; if it runs no more, delete {note}"]
