"""The table of all tasks, from made-up records."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from made_up_records import make_config, make_record

from stat_repro import results
from stat_repro.config import DatasetConfig, FinetuneConfig, RecoveryConfig
from stat_repro.reporting.canvas import draw
from stat_repro.reporting.figures import metric_figures
from stat_repro.reporting.outputs import study_outputs
from stat_repro.reporting.tables import Table
from stat_repro.reporting.task_table import GROUP, task_points, task_table
from stat_repro.results import RunRecord


def record(
    dataset: str, accuracy: float, dense: float = 0.9, *, seed: int = 0, **settings: object
) -> RunRecord:
    """Of a data set, with a head that was trained from this seed."""
    task = {"ppl": "language_modeling"}.get(dataset, "classification")
    made = make_config(
        task,
        dataset=DatasetConfig(name=dataset, task=task, source="table"),
        finetune=FinetuneConfig(seed=seed),
        **settings,
    )
    name = "perplexity" if dataset == "ppl" else "accuracy"
    return make_record({name: accuracy}, {name: dense}, config=made)


def table(records: list[RunRecord]) -> Table:
    return task_table(task_points(results.to_frame(records)))


def test_every_dense_model_has_a_row_named_by_what_makes_it_another() -> None:
    made = [record(name, 0.8, 0.9 - 0.1 * s, seed=s) for name in ("mrpc", "rte") for s in (0, 1)]
    cells = table(made).cells.set_index("method")
    assert cells["MRPC (accuracy)"].to_dict() == {
        "dense, finetune.seed=0": "90.0",
        "dense, finetune.seed=1": "80.0",
        "STAT, finetune.seed=0": "80.0",
        "STAT, finetune.seed=1": "80.0",
    }
    sources = table(made).sources
    chosen = sources[
        (sources["method"] == "dense, finetune.seed=1") & (sources["dataset"] == "rte")
    ]
    assert chosen["run_ids"].tolist() == [made[3].run_id]


def test_a_dense_model_that_no_setting_names_is_named_by_its_runs() -> None:
    made = [record("mrpc", 0.8), record("rte", 0.8), record("rte", 0.7, dense=0.85)]
    made[2].config["pruning"]["ridge"] = 0.5
    methods = table(made).cells["method"].tolist()
    assert methods[:3] == ["dense", "dense of STAT, ridge=0", "dense of STAT, ridge=0.5"]


def test_fractions_are_times_100_and_perplexities_are_not() -> None:
    shown = table([record("mrpc", 0.8), record("ppl", 51.876, 20.0)])
    assert shown.cells["ppl (token perplexity)"].tolist() == ["20.00", "51.88"]
    assert shown.cells["MRPC (accuracy)"].tolist() == ["90.0", "80.0"]
    assert shown.notes[0].startswith("all fractions times 100; ")


def test_what_was_trained_after_pruning_is_said() -> None:
    healed = record("rte", 0.8, recovery=RecoveryConfig(method="lora"))
    assert "; nothing is trained after" in table([record("mrpc", 0.8), record("rte", 0.8)]).notes[0]
    assert "; trained by lora or not at all after" in table([record("mrpc", 0.8), healed]).notes[0]


def test_data_sets_of_the_same_words_are_called_as_they_are() -> None:
    made = [record("mrpc", 0.8), record("glue_mrpc", 0.7)]
    cells = table(made).cells
    assert (cells["mrpc (accuracy)"][1], cells["glue_mrpc (accuracy)"][1]) == ("80.0", "70.0")
    figure = metric_figures(results.to_frame(made))[0]
    assert [panel.title for panel in figure.panels] == ["glue_mrpc", "mrpc"]
    renamed = [replace(one, model=name) for one in made for name in ("mrpc", "glue_mrpc")]
    assert set(table(renamed).cells["model"]) == {"mrpc", "glue_mrpc"}


def test_figures_of_models_and_data_whose_names_join_to_the_same_are_told_apart() -> None:
    made = [record("x_mrpc", 0.8), record("mrpc", 0.7)]
    made = [replace(one, model=name) for one, name in zip(made, ("a", "a_x"), strict=True)]
    figures = study_outputs("made_up", made, {}).figures
    names = [one.name for one in figures if "accuracy" in one.name]
    assert names == ["figure_a_x_mrpc_accuracy", "figure_a_x_mrpc_accuracy-2"]
    assert len({one.name for one in figures}) == len(figures)


def test_rows_of_a_budget_in_time_say_so() -> None:
    made = [record(name, 0.8) for name in ("mrpc", "rte", "mrpc", "rte")]
    for one in made[2:]:
        one.config["pruning"]["budget"] = "latency"
    assert sorted(table(made).cells[GROUP]) == ["100", "50", "50 of the time"]


def test_files_that_are_evaluated_under_one_name_are_data_sets_of_their_own() -> None:
    """They shared a figure, with two dense lines that nothing told apart."""
    made = []
    for text, dense in (("news.txt", 20.0), ("books.txt@0123456789", 30.0)):
        for train in ("a.txt", "b.txt"):
            data = DatasetConfig(
                name="text_file", task="language_modeling", source="text", train=train, test=text
            )
            config = make_config("language_modeling", dataset=data)
            made.append(make_record({"perplexity": 40.0}, {"perplexity": dense}, config=config))
    outputs = study_outputs("mine", made, {})
    (tasks,) = [one for one in outputs.tables if "table_tasks.md" in one.files()]
    names = ("text file (books)", "text file (news)")
    assert list(tasks.cells.columns[3:]) == [f"{name} (token perplexity)" for name in names]
    assert tasks.cells["method"].tolist() == [
        "dense",
        "STAT, dataset.train=a.txt",
        "STAT, dataset.train=b.txt",
    ]
    (figure,) = [one for one in outputs.figures if one.name.endswith("_metric")]
    assert [panel.title for panel in figure.panels] == list(names)
    levels = [[line.y for line in panel.lines if not line.x] for panel in figure.panels]
    assert levels == [[(30.0,)], [(20.0,)]]
    left, right = draw(figure).axes  # the rows are named once
    assert [axes.yaxis.get_tick_params()["labelleft"] for axes in (left, right)] == [True, False]


def test_cells_do_not_depend_on_the_version_of_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    """`unstack(sort=False)` of pandas 2 puts values of one row into another."""
    plain = pd.Series.unstack

    def unstack(series: pd.Series, *, sort: bool = True) -> pd.DataFrame:
        found = plain(series)
        return found if sort else found.iloc[::-1].set_axis(found.index)

    monkeypatch.setattr(pd.Series, "unstack", unstack)
    made = [record(name, 0.8, 0.9 - 0.1 * s, seed=s) for name in ("mrpc", "rte") for s in (0, 1)]
    assert table(made).cells["MRPC (accuracy)"].tolist() == ["90.0", "80.0", "80.0", "80.0"]
