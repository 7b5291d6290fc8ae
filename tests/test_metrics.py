"""Task metrics against hand-worked cases, scikit-learn and scipy; the modules work offline."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

import stat_repro
from stat_repro.data.glue import GLUE_TASKS
from stat_repro.metrics.modules import TaskMetric
from stat_repro.metrics.scores import NO_CLASS, classification_metrics, regression_metrics

pytestmark = pytest.mark.usefixtures("own_cache")


def test_binary_by_hand():
    # TP 2, FP 1, FN 1, TN 2: precision = recall = 2/3, MCC = (4 - 1) / 9.
    got = classification_metrics([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0])
    assert got == pytest.approx({"accuracy": 4 / 6, "f1": 2 / 3, "matthews": 1 / 3})


def test_binary_f1_is_of_class_one():
    # Class 1: precision 1, recall 1/3 -> 1/2; class 0 would give 4/6, the macro mean 7/12.
    got = classification_metrics([1, 0, 0, 0, 0], [1, 1, 1, 0, 0])
    assert got["f1"] == pytest.approx(1 / 2)


def test_three_classes_are_macro():
    predictions, references = [0, 0, 1, 1, 2, 2, 2], [0, 1, 1, 2, 2, 2, 0]
    got = classification_metrics(predictions, references)
    # Per class 1/2, 1/2, 2/3.
    assert got["f1"] == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)
    assert got["f1"] == pytest.approx(f1_score(references, predictions, average="macro"))
    assert got["matthews"] == pytest.approx(matthews_corrcoef(references, predictions))


def test_number_of_classes_decides_between_binary_and_macro():
    predictions, references = [1, 0, 0, 0, 0], [1, 1, 1, 0, 0]
    assert classification_metrics(predictions, references, num_classes=3)["f1"] == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("predictions", "references", "expected"),
    [
        ([0, 0, 0, 0], [0, 1, 0, 1], {"accuracy": 0.5, "f1": 0.0, "matthews": 0.0}),
        ([1, 1], [1, 1], {"accuracy": 1.0, "f1": 1.0, "matthews": 0.0}),
        ([0, 0], [0, 0], {"accuracy": 1.0, "f1": 0.0, "matthews": 0.0}),
        ([NO_CLASS, NO_CLASS], [0, 1], {"accuracy": 0.0, "f1": 0.0, "matthews": 0.0}),
    ],
)
def test_constant_predictions(predictions, references, expected):
    assert classification_metrics(predictions, references) == expected


def test_missing_prediction_counts_as_wrong():
    got = classification_metrics([1, NO_CLASS, 0, 0], [1, 1, 0, 0])
    # Class 1: precision 1, recall 1/2.
    assert got["accuracy"] == 0.75
    assert got["f1"] == pytest.approx(2 / 3)


def test_random_regression_equals_scipy():
    rng = np.random.default_rng(0)
    left = rng.normal(size=50)
    right = left + rng.normal(size=50)
    got = regression_metrics(left, right)
    assert got["pearson"] == pytest.approx(stats.pearsonr(left, right).statistic, rel=1e-12)
    assert got["spearman"] == pytest.approx(stats.spearmanr(left, right).statistic, rel=1e-12)


def test_regression_by_hand():
    # Deviations -1, 0, 1 and -2, -1, 3: r = 5 / sqrt(2 * 14); the ranks are equal.
    got = regression_metrics([1.0, 2.0, 3.0], [0.0, 1.0, 5.0])
    assert got["pearson"] == pytest.approx(5 / math.sqrt(28))
    assert got["spearman"] == pytest.approx(1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("predictions", "references"),
    [([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0], [1.0]), ([1.0, math.nan], [1.0, 2.0])],
)
def test_undefined_correlation_is_nan(predictions, references):
    got = regression_metrics(predictions, references)
    assert math.isnan(got["pearson"])
    assert math.isnan(got["spearman"])


@pytest.mark.parametrize("function", [classification_metrics, regression_metrics])
def test_bad_input_is_refused(function):
    with pytest.raises(ValueError, match="at least one example"):
        function([], [])
    with pytest.raises(ValueError, match="same length"):
        function([1, 0], [1])


@pytest.mark.parametrize(
    ("predictions", "references"), [([0, 2], [0, 1]), ([0, 1], [0, -1]), ([-2, 1], [0, 1])]
)
def test_classes_outside_the_task_are_refused(predictions, references):
    with pytest.raises(ValueError, match="classes 0 to 1"):
        classification_metrics(predictions, references, num_classes=2)


def test_values_that_are_no_classes_are_refused():
    with pytest.raises(ValueError, match="whole class indices"):
        classification_metrics([0.5, 1.0], [0, 1])


def test_modules_equal_the_functions():
    metric = TaskMetric("classification")
    assert metric.compute(predictions=[1, 0, 0], references=[1, 1, 0], num_classes=3) == (
        classification_metrics([1, 0, 0], [1, 1, 0], num_classes=3)
    )
    # A second use of the same object starts from nothing.
    assert metric.compute(predictions=[1], references=[1])["accuracy"] == 1.0
    metric = TaskMetric("regression")
    metric.add_batch(predictions=[1.0, 2.0], references=[0.0, 1.0])
    metric.add_batch(predictions=[3.0], references=[5.0])
    assert metric.compute() == regression_metrics([1.0, 2.0, 3.0], [0.0, 1.0, 5.0])


GLUE_METRICS = {
    **dict.fromkeys(("mnli", "mnli_mismatched", "qnli", "rte", "sst2"), ("accuracy",)),
    **dict.fromkeys(("mrpc", "qqp"), ("accuracy", "f1")),
    "cola": ("matthews",),
    "stsb": ("pearson", "spearman"),
}


def glue_metrics(task, predictions, references):
    """What the benchmark reports for a task, as a record names it."""
    regression = GLUE_TASKS[task].classes is None
    function = regression_metrics if regression else classification_metrics
    values = function(predictions, references)
    return {name: values[name] for name in GLUE_TASKS[task].metrics}


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_glue_gives_what_the_benchmark_reports(task):
    rng = np.random.default_rng(3)
    classes = GLUE_TASKS[task].classes
    if classes is None:
        references = rng.uniform(0, 5, 60).round(1)
        predictions = references + rng.normal(size=60)
    else:
        references, predictions = rng.integers(0, len(classes), (2, 60))
    expected = {
        "accuracy": lambda: np.mean(predictions == references),
        "f1": lambda: f1_score(references, predictions),
        "matthews": lambda: matthews_corrcoef(references, predictions),
        "pearson": lambda: stats.pearsonr(predictions, references).statistic,
        "spearman": lambda: stats.spearmanr(predictions, references).statistic,
    }
    got = glue_metrics(task, predictions, references)
    assert tuple(got) == GLUE_METRICS[task]
    assert got == pytest.approx({name: expected[name]() for name in got}, rel=1e-12)


def test_glue_by_hand():
    # MRPC, TP 3, FP 1, FN 1, TN 1: accuracy 4/6, precision = recall = F1 = 3/4.
    predictions, references = [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 1, 0]
    got = glue_metrics("mrpc", predictions, references)
    assert got == pytest.approx({"accuracy": 4 / 6, "f1": 3 / 4})
    # CoLA, the same counts: (3 * 1 - 1 * 1) / sqrt(4 * 4 * 2 * 2).
    assert glue_metrics("cola", predictions, references) == pytest.approx({"matthews": 2 / 8})
    # STS-B: ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: deviations -1.5, 0, 0, 1.5 and -1.5 to 1.5.
    got = glue_metrics("stsb", [0.0, 2.0, 2.0, 5.0], [0.0, 1.0, 3.0, 4.0])
    assert got["spearman"] == pytest.approx(4.5 / math.sqrt(4.5 * 5.0))
    # Deviations -2.25, -0.25, -0.25, 2.75 and -2, -1, 1, 2.
    assert got["pearson"] == pytest.approx(10.0 / math.sqrt(12.75 * 10.0))


SCRIPT = """
import sys
from pathlib import Path
from stat_repro.metrics.modules import TaskMetric

home = Path(sys.argv[1])
for name in ("classification", "regression"):
    values = TaskMetric(name).compute(predictions=[1, 0, 1, 0], references=[1, 0, 0, 0])
    print(name, *sorted(values))
print(*sorted({p.relative_to(home).parts[1] for p in home.rglob("*") if p.is_file()}))
"""


def test_offline_and_nothing_is_written(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    variables = {
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "STAT_REPRO_CACHE": str(tmp_path / "cache"),
        "HF_EVALUATE_OFFLINE": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(Path(stat_repro.__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(home)],
        env=inherited | variables,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    metrics = ["classification accuracy f1 matthews", "regression pearson spearman"]
    assert done.stdout.splitlines() == [*metrics, ""]
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
