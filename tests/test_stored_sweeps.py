"""The stored studies: what their files say, and that each of them runs small."""

import json
import math
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from pico_benchmarks import (
    corpus_overrides,
    glue_overrides,
    squad_file_overrides,
    squad_overrides,
    squad_parts_overrides,
    write_corpus,
    zero_shot_overrides,
)
from pico_project import sentence_overrides, similarity_overrides, text_overrides

ROOT = Path(__file__).resolve().parents[1]


def records_in(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def other_text_overrides(folder):
    """Calibrated on a corpus of its own; nothing packaged takes part."""
    other = write_corpus(folder / "other", seed=10)
    text = ["dataset=wikitext2", "calibration.examples=4", f"dataset.calibration_path={other}"]
    return [*corpus_overrides(folder), *text]


def text_and_tasks_overrides(folder):
    """Running text of the user and a tiny multiple-choice task; a third goes, a layer of three."""
    text = text_overrides(folder)
    tasks = [o for o in zero_shot_overrides(folder) if o.startswith("evaluation.zero_shot.")]
    return [*text, *tasks, "calibration.examples=4", "ratio=0.3", "pruning=stat,shortgpt"]


def one_task_overrides(folder, name, task, methods):
    """One of the tasks that a study covers, some of its methods.

    All tasks run in `bert_base_glue`, all methods in `methods_minilm`.
    """
    return [*glue_overrides(folder, name), f"dataset={task}", f"pruning={methods}"]


def calibration_text_overrides(folder):
    """The same on two corpora and in two amounts."""
    corpora = "dataset.calibration_corpus=wikitext2,ptb"
    swept = [corpora, "calibration.examples=4,8", "ratio=0.2"]
    return [*other_text_overrides(folder), *swept]


def few_healed_overrides(folder):
    """One method, one step of each recovery."""
    return [*sentence_overrides(folder), "pruning=stat", "recovery.steps=1"]


def healed_text_overrides(folder):
    """One method without the adapters, which need a package; all recoveries run in their test."""
    small = ["calibration.examples=4", "pruning=stat", "recovery=distill", "recovery.steps=1"]
    return [*corpus_overrides(folder), *small]


SWEEPS = sorted((ROOT / "experiments" / "sweep").glob("*.yaml"))
_QUICK_COST = ["cost.repeats=2", "cost.warmup=0", "cost.sequence_length=8"]
# How each stored sweep becomes tiny: overrides of model and data, and how many points remain of it
# at one ratio and seed. The variants that a study compares stay, except where others run them too.
SMALL = {
    "ablation_kinds_minilm": (lambda folder: [*sentence_overrides(folder), "ratio=0.2"], 3),
    "ablation_ridge_minilm": (
        lambda folder: [*sentence_overrides(folder), "calibration.examples=16,32"],
        20,
    ),
    "ablation_scaling_minilm": (sentence_overrides, 2),
    "ablation_selection_minilm": (sentence_overrides, 7),
    "ablation_stat_minilm": (sentence_overrides, 6),
    "ablation_stat_plus_minilm": (sentence_overrides, 6),
    "curvature_minilm": (sentence_overrides, 3),
    "bert_base_glue": (lambda folder: glue_overrides(folder, "bert"), 9),
    "bert_base_squad": (lambda folder: squad_overrides(folder, "bert"), 2),
    "calibration_size_minilm": (
        lambda folder: [*sentence_overrides(folder), "calibration.examples=16,32"],
        4,
    ),
    "calibration_text_editorials": (calibration_text_overrides, 4),
    "calibration_text_wikitext2": (calibration_text_overrides, 4),
    "compression_time": (
        lambda folder: [*sentence_overrides(folder), "calibration.examples=16,32"],
        2,
    ),
    "compression_time_minilm": (sentence_overrides, 3),
    "compression_time_smollm2": (
        lambda folder: [*corpus_overrides(folder), "calibration.examples=4"],
        2,
    ),
    "cost_minilm": (lambda folder: [*sentence_overrides(folder), *_QUICK_COST], 2),
    "cost_smollm2": (lambda folder: [*text_overrides(folder), *_QUICK_COST], 1),
    "latency_minilm": (
        lambda folder: [
            *sentence_overrides(folder),
            "cost=counted",
            "pruning.latency_length=8",
            "pruning.min_units=0",  # so that any times of a tiny model can be met
        ],
        1,
    ),
    "latency_smollm2": (
        lambda folder: [*text_overrides(folder), *_QUICK_COST, "pruning.min_units=0"],
        2,
    ),
    "decoder_text": (lambda folder: [*text_overrides(folder), "calibration.examples=4"], 1),
    "decoder_zero_shot": (text_and_tasks_overrides, 2),
    "distilbert_glue": (lambda folder: glue_overrides(folder, "distilbert"), 9),
    "distilbert_squad": (lambda folder: squad_overrides(folder, "distilbert"), 2),
    "glue_distilminilm": (
        lambda folder: one_task_overrides(folder, "distilbert", "stsb", "stat,flap"),
        2,
    ),
    "glue_layers": (
        lambda folder: [*one_task_overrides(folder, "bert", "cola", "shortgpt"), "ratio=0.3"],
        3,
    ),
    "glue_minilm": (lambda folder: one_task_overrides(folder, "bert", "cola", "stat,fisher"), 2),
    "glue_mpnet": (lambda folder: one_task_overrides(folder, "mpnet", "mrpc", "stat,magnitude"), 2),
    "glue_tuning_seeds": (
        lambda folder: [*one_task_overrides(folder, "bert", "rte", "stat"), "finetune.seed=1"],
        2,
    ),
    "healing_distilminilm": (few_healed_overrides, 2),
    "healing_minilm": (few_healed_overrides, 2),
    "healing_smollm2": (healed_text_overrides, 1),
    "llama2_7b_wikitext2": (zero_shot_overrides, 2),
    "methods_distilminilm": (sentence_overrides, 8),
    "methods_minilm": (sentence_overrides, 7),
    "methods_smollm2": (
        lambda folder: [*corpus_overrides(folder), "calibration.examples=4"],
        5,
    ),
    "methods_smollm2_editorials": (other_text_overrides, 5),
    "methods_smollm2_same_text": (
        lambda folder: [*text_overrides(folder), "calibration.examples=4"],
        3,
    ),
    "methods_sst2_minilm": (sentence_overrides, 6),
    "mpnet_stsb": (similarity_overrides, 1),
    "movie_reviews_distilminilm": (sentence_overrides, 1),
    "movie_reviews_minilm": (sentence_overrides, 2),
    "nyt_editorials_smollm2": (text_overrides, 3),
    "sketch_minilm": (lambda folder: [*sentence_overrides(folder), "calibration.examples=16"], 7),
    "squad_dev_minilm": (
        lambda folder: [*squad_file_overrides(folder, "bert"), "calibration.examples=12"],
        1,
    ),
    "squad_extra": (lambda folder: [*squad_parts_overrides(folder, "bert"), "pruning=stat"], 2),
    "stsb_similarity": (
        lambda folder: [*similarity_overrides(folder), "model.name=one", "pruning=stat,flap"],
        2,
    ),
    "wikitext2_smollm2": (corpus_overrides, 2),
}


def header_of(sweep):
    """The comment of a sweep, as one line of text."""
    lines = sweep.read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def points_of(sweep):
    """How many points the sweep has."""
    params = yaml.safe_load(sweep.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
    parser = OverridesParser.create()
    overrides = [parser.parse_override(f"{key}={value}") for key, value in params.items()]
    swept = [one for one in overrides if one.is_sweep_override()]
    return math.prod(len(list(one.sweep_iterator())) for one in swept)


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_every_stored_sweep_says_what_it_is_and_what_ran(sweep):
    """Claim, command, cost and what ran here, in this order and in numbers that are true."""
    header, points = header_of(sweep), points_of(sweep)
    words = ("Claim:", f"Command: python run.py -m sweep={sweep.stem}", "Cost:", "Run here:")
    places = [header.index(word) for word in words]
    assert places == sorted(places)
    assert f" {points} points" in header[places[2] : places[3]]
    stored = records_in(ROOT / "results" / sweep.stem)
    ran = header[places[3] :]
    assert ("all points" in ran) == (len(stored) == points)
    assert ("no point" in ran) == (not stored)


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_every_stored_sweep_runs_small(sweep, tmp_path, run):
    """All variants of the study at one ratio and seed, on tiny models and files."""
    overrides, points = SMALL[sweep.stem]
    cache = {"STAT_REPRO_CACHE": str(tmp_path / "cache")}
    done = run(
        [f"sweep={sweep.stem}", "ratio=0.4", "seed=0", *overrides(tmp_path)], tmp_path, **cache
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = records_in(tmp_path / "results" / sweep.stem)
    assert len(records) == points
    assert not (tmp_path / "results" / sweep.stem / "failed").exists()
    trained = len(list((tmp_path / "cache" / "checkpoints").glob("*")))
    assert trained == 0 or f" {trained} fine-tuning" in header_of(sweep)
