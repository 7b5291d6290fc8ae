"""Records of runs: their schema, where they are stored, where they came from. No torch.

May use: config, paths, plan, scratch.
"""

from stat_repro.results.example_files import read_examples
from stat_repro.results.provenance import collect
from stat_repro.results.record import RunRecord
from stat_repro.results.speed_record import load_speed
from stat_repro.results.store import (
    StudyError,
    find_record,
    list_studies,
    load_records,
    read_record,
    save_record,
    to_frame,
)
from stat_repro.results.strict_json import RecordError
