"""Outputs of a checkpoint are matched with the data's classes by name, or refused with both."""

import copy

import datasets
import pytest
import torch
from glue_files import write_hub_layout
from pico_config import compose_run
from pico_data import word_tokenizer
from pico_models import pico_model
from pico_project import save_checkpoint, sentence_overrides
from transformers import BertConfig

from stat_repro.config import ConfigError, DatasetConfig
from stat_repro.data.errors import DataError
from stat_repro.data.labels import class_names, fixed_indices, hidden
from stat_repro.data.table_files import column, read_table
from stat_repro.data.task_data import load_task_data
from stat_repro.models.outputs import OutputOrder, match_outputs, output_names
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache

MNLI = ("entailment", "neutral", "contradiction")


def match(outputs, classes=MNLI, **options):
    return match_outputs(outputs, classes, checkpoint="their/model", data="mnli", **options)


# --- names --------------------------------------------------------------------------------------


def test_equal_names_in_equal_order_need_nothing():
    assert match(MNLI) == OutputOrder()


@pytest.mark.parametrize(
    ("outputs", "classes"),
    [
        (("ENTAILMENT", "Neutral", "contradiction"), MNLI),
        (("not duplicate", "Duplicate"), ("not_duplicate", "duplicate")),
        (("Not-Entailment", " entailment"), ("not_entailment", "entailment")),
        (("POSITIVE", "NEGATIVE"), ("positive", "negative")),
    ],
)
def test_case_and_separators_do_not_count(outputs, classes):
    assert match(outputs, classes) == OutputOrder()


def test_another_order_is_read_by_name():
    order = match(("CONTRADICTION", "ENTAILMENT", "NEUTRAL"))
    assert order.columns == (1, 2, 0)  # of entailment, of neutral, of contradiction
    logits = torch.tensor([[10.0, 11.0, 12.0]])
    assert order.arrange(logits).tolist() == [[11.0, 12.0, 10.0]]
    assert "matched by name" in order.note


def test_classes_that_differ_only_in_case_are_matched_exactly():
    assert match(("b", "B"), ("B", "b")).columns == (1, 0)
    with pytest.raises(ConfigError, match="expected the same names"):
        match(("b", "c"), ("B", "b"))


@pytest.mark.parametrize("outputs", [("LABEL_0", "LABEL_1", "LABEL_2"), ("0", "1", "2")])
def test_outputs_without_names(outputs, caplog):
    order = match(outputs)
    assert order.columns is None
    (message,) = caplog.messages
    assert f"outputs [{', '.join(outputs)}], mnli the classes [{', '.join(MNLI)}]" in message
    assert "--set 'model.labels=[<output 0>,<output 1>,<output 2>]'" in message
    assert "no names, taken as entailment, neutral, contradiction" in order.note
    with pytest.raises(ConfigError) as caught:
        match(outputs, names_needed=True)
    for part in (outputs[0], *MNLI, "their/model", "mnli", "--set 'model.labels=[<output 0>,"):
        assert part in str(caught.value)


def test_names_given_for_the_outputs():
    outputs = ("LABEL_0", "LABEL_1", "LABEL_2")
    given = ("contradiction", "entailment", "neutral")
    order = match(outputs, labels=given, names_needed=True)
    assert order.columns == match(given).columns
    assert "model.labels" in order.note
    order = match(outputs, labels=MNLI, names_needed=True)
    assert order.columns is None
    assert "model.labels" in order.note
    with pytest.raises(ConfigError, match=r"expected 3 names.*got \[entailment\]"):
        match(outputs, labels=("entailment",))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (("yes", "no", "maybe"), "expected the same names"),
        (("entailment", "entailment", "neutral"), "expected the same names"),
        (("entailment", "not_entailment"), "expected the same number"),
        (("LABEL_1", "LABEL_0", "LABEL_2"), "expected the same names"),
    ],
)
def test_other_outputs_are_refused_with_both_shown(outputs, message):
    with pytest.raises(ConfigError, match=message) as caught:
        match(outputs)
    assert f"[{', '.join(outputs)}]" in str(caught.value)
    assert "[entailment, neutral, contradiction]" in str(caught.value)


def test_class_numbers_are_the_checkpoints_own(caplog):
    assert match(("LABEL_0", "LABEL_1"), ("0", "1")).columns is None
    assert not caplog.messages
    order = match(("1 star", "2 stars"), ("1", "2"))
    assert order.columns is None
    assert "class numbers taken as the outputs 1 star, 2 stars" in order.note
    assert "[1 star, 2 stars], mnli the classes [1, 2], which are taken in this" in caplog.text
    assert match(("2", "1"), ("1", "2")).columns == (1, 0)
    assert match(("0", "1"), ("1", "2")).columns is None  # stars, or a class that a file lacks
    assert "[0, 1], mnli the classes [1, 2], which are taken in this order" in caplog.text


def test_numbers_are_names_however_they_are_written():
    """A label "01" is the class 1, so that an output of that name is it too."""
    config = BertConfig(id2label={0: 1, 1: 0})
    assert output_names(config) == ("1", "0")
    for outputs in (output_names(config), ("1.0", "0.0"), ("01", "00")):
        assert match(outputs, class_names(["00", "1"], "f")).columns == (1, 0)
        assert class_names(["01"], "f", outputs) == ("0", "1")
    assert output_names(BertConfig(id2label={1: "a", 2: "b"})) == ("LABEL_0", "a")


def test_numbers_at_the_end_of_names_are_numbers():
    """The model's own output names as labels of a file, in any order."""
    values = [f"LABEL_{i}" for i in reversed(range(12))]
    names = class_names(values, "f")
    assert names == tuple(reversed(values))
    assert match(names, names) == OutputOrder()
    assert class_names(["b2", "a10", "a9", "a"], "f") == ("a", "a9", "a10", "b2")


def test_equal_names_are_matched_before_names_are_taken_for_none():
    outputs = ("LABEL_0", "LABEL_1", "LABEL_2")
    assert match(outputs, ("LABEL_2", "LABEL_0", "LABEL_1")).columns == (2, 0, 1)


# --- labels of a benchmark ----------------------------------------------------------------------


def test_labels_are_names_or_indices():
    values = ["neutral", 2, "0", 1.0]
    assert fixed_indices(values, MNLI, "f") == [1, 2, 0, 1]
    for bad in (-1, 3, "-", "Neutral", 0.5, None):
        with pytest.raises(DataError, match="f, row 1"):
            fixed_indices([bad], MNLI, "f")


@pytest.mark.parametrize(
    ("names", "expected"),
    [(["no", "maybe", "yes"], ("no", "maybe", "yes")), (["3", "2", "1"], ("0", "1"))],
)
def test_a_parquet_file_of_datasets_names_its_classes(tmp_path, names, expected):
    """In its order, and also those without rows; numbers stay outputs of the model."""
    train, test = (str(tmp_path / name) for name in ("train.parquet", "test.csv"))
    rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]})
    rows.cast_column("label", datasets.ClassLabel(names=names)).to_parquet(train)
    (tmp_path / "test.csv").write_text(f"text,label\nd,{expected[1]}\ne,0\n")
    config = DatasetConfig("own", "classification", "table", train=train, test=test)
    data = load_task_data(config)
    assert data.label_names == expected
    assert [list(data.split(part)["label"]) for part in ("train", "test")] == [[1, 0, 1], [1, 0]]


def test_only_minus_one_everywhere_is_hidden():
    assert hidden([-1, -1.0, "-1"])
    assert not hidden([-1, 0])
    assert not hidden(["1"])


# --- runs ---------------------------------------------------------------------------------------


def save_classifier(folder, names, order=None):
    """A pico BERT with three classes; with its head's rows (and names) in another order."""
    model = pico_model("bert", num_labels=3).double()
    order = list(range(3)) if order is None else order
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.copy_(parameter[order].clone())
    model.config.id2label = {i: names[j] for i, j in enumerate(order)}
    model.config.label2id = {name: i for i, name in model.config.id2label.items()}
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    data = write_hub_layout("mnli", tmp_path / "data", rows=40)

    def execute(checkpoint, *more):
        config = compose_run(
            *("model=hf", f"model.path={checkpoint}", "model.name=pico", "dtype=float64"),
            *("dataset=mnli", f"dataset.path={data}", "dataset.max_length=16"),
            *("calibration.examples=40", "tracking=disabled", "ratio=0.3", *more),
        )
        return run_experiment(config, SweepCache())

    return execute


def test_a_reordered_head_gives_the_same_metrics(run, tmp_path):
    plain = run(save_classifier(tmp_path / "plain", MNLI))
    expected = plain.record.metrics
    upper = [name.upper() for name in MNLI]
    other = run(save_classifier(tmp_path / "other", upper, order=[2, 0, 1]))
    assert other.record.plan["layers"] == plain.record.plan["layers"]
    for group in ("dense", "pruned", "fidelity"):
        assert other.record.metrics[group] == pytest.approx(expected[group], rel=1e-9)
    assert "outputs" not in expected["protocol"]
    assert other.record.metrics["protocol"]["outputs"] == (
        "matched by name: CONTRADICTION, ENTAILMENT, NEUTRAL read as "
        "entailment, neutral, contradiction"
    )
    # The model stays the user's: names and rows in its own order.
    kept = other.compression.model
    assert kept.config.id2label == {0: "CONTRADICTION", 1: "ENTAILMENT", 2: "NEUTRAL"}
    weight = plain.compression.model.classifier.weight
    assert torch.equal(kept.classifier.weight, weight[[2, 0, 1]])


def test_names_from_the_configuration_do_what_names_in_the_checkpoint_do(run, tmp_path):
    labels = [f"LABEL_{i}" for i in range(3)]
    named = run(save_classifier(tmp_path / "named", MNLI, order=[2, 0, 1]))
    unnamed = save_classifier(tmp_path / "unnamed", labels, order=[2, 0, 1])
    model_config = (unnamed / "config.json").read_text()
    for i, j in enumerate([2, 0, 1]):  # the names that such checkpoints have, by position
        model_config = model_config.replace(f'"{i}": "LABEL_{j}"', f'"{i}": "LABEL_{i}"')
    (unnamed / "config.json").write_text(model_config)
    with pytest.raises(ConfigError, match=r"\[LABEL_0, LABEL_1, LABEL_2\].*model\.labels=\["):
        run(unnamed)
    right = run(unnamed, "model.labels=[contradiction,entailment,neutral]")
    assert right.record.metrics["dense"] == named.record.metrics["dense"]
    assert "model.labels" in right.record.metrics["protocol"]["outputs"]
    wrong = run(unnamed, f"model.labels=[{','.join(MNLI)}]")
    assert wrong.record.metrics["dense"] != named.record.metrics["dense"]
    assert wrong.record.run_id != right.record.run_id


def test_two_classes_of_ones_own_files_in_another_order(tmp_path):
    """F1 and Matthews are of the data's classes, whatever the order of the outputs."""
    arguments = [a for a in sentence_overrides(tmp_path) if not a.startswith("hydra.")]
    model = pico_model("bert")
    swapped = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in (swapped.classifier.weight, swapped.classifier.bias):
            parameter.copy_(parameter.flip(0).clone())
    swapped.config.id2label, swapped.config.label2id = {0: "up", 1: "down"}, {"up": 0, "down": 1}
    swapped.save_pretrained(tmp_path / "swapped")
    word_tokenizer().save_pretrained(tmp_path / "swapped")
    plain, other = (
        run_experiment(compose_run(*arguments, *more), SweepCache()).record.metrics
        for more in ([], [f"model.path={tmp_path / 'swapped'}"])
    )
    for group in ("dense", "pruned", "fidelity"):
        assert other[group] == pytest.approx(plain[group], rel=1e-5)
    assert other["protocol"]["outputs"] == "matched by name: up, down read as down, up"


def test_a_checkpoint_without_names_is_taken_in_the_datas_order_and_says_so(tmp_path):
    arguments = [a for a in sentence_overrides(tmp_path) if not a.startswith("hydra.")]
    unnamed = save_checkpoint(tmp_path / "unnamed", "bert")
    record = run_experiment(compose_run(*arguments, f"model.path={unnamed}"), SweepCache()).record
    assert record.metrics["protocol"]["outputs"] == "outputs have no names, taken as down, up"


def test_names_for_a_head_that_is_trained_here_are_refused(run, tmp_path):
    bare = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    with pytest.raises(ConfigError, match=r"model\.labels: expected null.*trained here"):
        run(bare, f"model.labels=[{','.join(MNLI)}]")


def test_scores_have_one_output_without_a_name(tmp_path):
    data = write_hub_layout("stsb", tmp_path / "data")
    given = ["model=hf", "dataset=stsb", f"dataset.path={data}", "model.name=pico"]
    given.append("dataset.max_length=40")  # the positions of the model
    two = save_checkpoint(tmp_path / "two", "bert")
    with pytest.raises(ConfigError, match="expected one output, a number, for stsb"):
        SweepCache().dense(compose_run(*given, f"model.path={two}"))
    one = save_checkpoint(tmp_path / "one", "bert", num_labels=1)
    with pytest.raises(ConfigError, match="task regression has no classes"):
        SweepCache().dense(compose_run(*given, f"model.path={one}", "model.labels=[a]"))
    assert SweepCache().dense(compose_run(*given, f"model.path={one}")).workload.sequence_length > 2


def test_a_message_about_a_wide_table_lists_some_of_its_columns(tmp_path):
    names = [f"column{number}" for number in range(500)]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join([",".join(names), ",".join(["1"] * 500)]))
    with pytest.raises(DataError, match=r"has column0, .*column19, \.\.\. and 480 more$"):
        column(read_table(path), "text", path, "dataset.text_column")
    with pytest.raises(ConfigError, match=r"a{80}\.{3}, column0, .* and 481 more\]: expected"):
        match(("no", "yes"), ["a" * 99, *names])  # a column of texts, taken for labels
