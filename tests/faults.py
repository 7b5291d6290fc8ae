"""What was done to the commands besides bad input, and what becomes of them; see docs/trust.md.

Every row is a test: the one of this name in the file that it names.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kill:
    """A work that is killed before, or in the middle of, each of its changes of files.

    Attributes:
        name: Of the work.
        does: What it does.
        points: About how many points there are.
        default: How many of them `make test` takes.
        test: The file with its test.
    """

    name: str
    does: str
    points: int
    default: int = 2
    test: str = "test_kills_of_models.py"


_STORE = "test_kills_of_the_store.py"
KILLS = (
    Kill("record", "stores a run", 18, test=_STORE),
    Kill("record and values", "stores a run and its values per example", 24, test=_STORE),
    Kill("record and values, no hard links", "stores both", 24, test=_STORE),
    Kill("record for a damaged one", "sets a damaged record aside and stores", 24, test=_STORE),
    Kill("record for a damaged one, no hard links", "the same", 24, test=_STORE),
    Kill("record beside values of another", "replaces values without a record", 22, test=_STORE),
    Kill("sweep", "stores two runs and their models", 48, test="test_points.py"),
    Kill("asset", "fetches, unpacks and converts", 62),
    Kill("asset, damaged", "makes an entry of the cache again", 24),
    Kill("asset, of an earlier version", "writes the list of an entry's files", 6),
    Kill("fine-tuning", "trains a head and keeps it in the cache", 30),
    Kill("sharded", "prunes a checkpoint layer by layer", 99),
    Kill("spill", "keeps activations in files", 65),
    Kill("saving", "saves a pruned model", 37),
    Kill("table", "replaces a table", 6),
)


@dataclass(frozen=True)
class Fault:
    """A work that finds something wrong, and how it ends.

    Attributes:
        fault: What is wrong; a function of test_faults.py.
        name: Of the work.
        says: What its error or its notice says, a regular expression.
        afterwards: What is there then.
        status: The exit status; of two processes the larger one.
    """

    fault: str
    name: str
    says: str
    afterwards: str
    status: int = 1


_BEFORE = "what was there before"
_FULL = "No space left|File too large"
_AGAIN = "the run, measured again; the damaged files under another name"
_WHOLE = "all files, as after an undisturbed run"
FAULTS = (
    *(
        Fault("full disk", name, says, then)
        for name, says, then in (
            ("store", _FULL, _BEFORE),
            ("asset, damaged", f"the disk is full|{_FULL}", "nothing; the damaged entry is gone"),
            ("fine-tuning", f"the disk is full|{_FULL}", _BEFORE),
            ("sharded", f"free space|{_FULL}", _BEFORE),
            ("spill", f"free space|{_FULL}", _BEFORE),
            ("saving", _FULL, _BEFORE),
            ("table", _FULL, _BEFORE),
        )
    ),
    *(
        Fault("read-only folder", name, says, _BEFORE)
        for name, says in (
            ("store", "Read-only file system"),
            ("asset", "cannot use the cache .* Read-only file system"),
            ("fine-tuning", "cannot use the cache .* Read-only file system"),
            ("sharded", "Read-only file system"),
            ("spill", "expected a folder that can be written to|Read-only file system"),
            ("saving", "Read-only file system"),
            ("table", "Read-only file system"),
        )
    ),
    *(
        Fault(fault, name, says, then, 0)
        for fault in ("truncated file", "flipped bit")
        for name, says, then in (
            (
                "store",
                "damaged, now .*damaged-1",
                "the run, measured again; the damaged files aside",
            ),
            ("asset", "changed since it was made: ", _WHOLE),
            ("fine-tuning", "changed since it was made: ", _WHOLE),
        )
    ),
    Fault("truncated input", "sharded", "expected a safetensors file", "nothing"),
    Fault("truncated spill file", "spill", "expected a whole matrix; it was cut off", "nothing"),
    *(
        Fault("lock of a dead process", name, "(?s)^(?!.*waiting)", _WHOLE, 0)
        for name in ("store", "asset", "fine-tuning")
    ),
    *(
        Fault("two processes", name, says, then, status)
        for name, says, then, status in (
            ("store", "", _WHOLE, 0),
            ("asset", "", _WHOLE, 0),
            ("fine-tuning", "", _WHOLE, 0),
            ("sharded", "in use", _WHOLE, 1),
            ("spill", "", "nothing", 0),
            ("saving", "in use", _WHOLE, 1),
            ("table", "", _WHOLE, 0),
        )
    ),
)


@dataclass(frozen=True)
class Other:
    """What was tried and is tested elsewhere.

    Attributes:
        kind: Heading of its table.
        what: What was done.
        then: What happens.
        test: File and function of its test.
    """

    kind: str
    what: str
    then: str
    test: str


def _others(kind: str, table: str) -> tuple[Other, ...]:
    """Lines of `what | then | test`."""
    lines = filter(None, map(str.strip, table.splitlines()))
    return tuple(Other(kind, *map(str.strip, line.split(" | "))) for line in lines)


_SIGNALS = """
Ctrl-C | one line with what is done, exit 130 | test_entry.py::test_signals_end_the_work_with_its_account
Ctrl-C when a record has just got its name | it keeps its values per example | test_result_examples.py::test_ctrl_c_when_the_record_has_just_got_its_name_leaves_both_files
Ctrl-C while libraries are loaded | one line, exit 130 | test_entry.py::test_ctrl_c_while_libraries_are_loaded_is_one_line
SIGTERM | one line with what is done, exit 143 | test_entry.py::test_signals_end_the_work_with_its_account
a second SIGTERM | the process ends at once | test_entry.py::test_a_second_sigterm_finds_the_system_s_own_handler
the end of a command while pip downloads | pip and its children end too | test_download.py::test_pip_reports_and_ends_with_the_caller
an error in the program itself | stack trace and one line, exit 1 | test_entry.py::test_a_fault_of_the_program_stays_visible
"""

_LEFTOVERS = """
temporary files and folders of killed processes | the next run removes them; those of living processes stay | test_scratch.py::test_leftovers_of_the_killed_go_and_those_of_the_living_stay
half-written checkpoints and spill folders | the next run removes them | test_scratch.py::test_big_folders_of_killed_runs_go_with_the_next_run
half-made entries of the cache | the next command removes them | test_assets.py::test_remains_of_a_killed_process_are_removed
a file system without locks | leftovers stay, nothing in use is removed | test_scratch.py::test_nothing_is_removed_where_there_are_no_locks
a folder where locks fail | named, exit 1 | test_scratch.py::test_a_folder_without_locks_is_named
a lock that is a note of another machine | the file to delete is named | test_scratch.py::test_a_lock_that_is_a_note_of_another_machine_can_be_found
"""

_DAMAGE = """
an entry of the cache: zeroed, one bit, cut, gone, added, no list | a message, and it is made again | test_cache_damage.py::test_a_damaged_entry_is_told_and_made_again
the same while a process uses it | a message, and it is made again | test_cache_damage.py::test_an_entry_that_is_damaged_while_the_process_lives_is_made_again
a read-only cache, damaged | named, exit 1 | test_cache_damage.py::test_a_read_only_cache_that_is_damaged_is_named
a record edited by hand | refused by name, set aside, measured again | test_edited_records.py::test_an_edited_record_is_refused_by_name_and_measured_again
a file that is no record | refused by name, set aside | test_edited_records.py::test_what_is_no_record_is_named_and_set_aside
a record copied to another place | refused by name | test_results.py::test_file_out_of_place_is_named
a record that is a link to nowhere | named, exit 1; not measured again | test_points.py::test_a_record_that_is_a_link_to_nowhere_is_told
the record in the folder of a pruned model | refused by name | test_edited_records.py::test_the_damaged_record_of_a_saved_model_is_named
the folder of a pruned model that lost weights or plan | named, exit 1 | test_points.py::test_what_is_left_of_a_model_is_told
the state of a recovery that was killed: cut, one bit | told, the recovery begins anew | test_recovery.py::test_a_state_of_other_labels_or_a_damaged_one_is_not_gone_on_with
files of model or data, changed while a run reads them | refused, nothing is stored under their old name | test_pipeline.py::test_files_that_change_while_a_run_reads_them_are_not_stored_under_its_name
the same while a run computes | the run goes on with what it read | test_pipeline.py::test_files_that_change_after_a_run_has_read_them_change_nothing
a calibration of other batches | refused | test_batches.py::test_a_calibration_of_other_batches_is_refused
a calibration of another model, or of this one before training | refused | test_batches.py::test_a_calibration_of_another_model_is_refused
"""

_FOLDERS = """
weights, tensors or settings missing | refused by name | test_untrusted_folders.py::test_a_folder_that_lacks_what_its_model_needs_is_refused
tensors that the model does not have | a message names them | test_untrusted_folders.py::test_tensors_that_the_model_does_not_have_are_told
code in the folder, and somebody who would answer yes | does not run, nothing is asked | test_untrusted_folders.py::test_code_of_a_folder_does_not_run_whoever_answers_yes
pickled weights beside a decoy | refused before anything is read | test_untrusted_folders.py::test_pickled_weights_beside_a_decoy_are_refused_before_anything_else
a trained head that the configuration does not name | refused, not trained again | test_untrusted_folders.py::test_a_trained_head_that_the_configuration_does_not_name
weights cut short | refused by name | test_loading.py::test_weights_cut_short
sharded checkpoints: damaged, other shapes, an index that leaves the folder | refused by name | test_sharded_refusals.py::test_unusable_checkpoints_are_named
a source distribution with code of its own | nothing of it runs | test_download.py::test_nothing_of_a_source_distribution_runs
"""

OTHERS = (
    *_others("Signals", _SIGNALS),
    *_others("Leftovers", _LEFTOVERS),
    *_others("Damaged and edited files", _DAMAGE),
    *_others("Folders of strangers", _FOLDERS),
)
