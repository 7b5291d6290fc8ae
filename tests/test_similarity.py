"""Pairs of sentences scored by cosine, with an encoder that has no head."""

import re
from types import SimpleNamespace

import pytest
import torch
from pico_data import WORDS, word_tokenizer
from pico_models import pico_model
from pico_project import common_overrides
from pico_runs import compose_here

from stat_repro.config import CalibrationConfig, ConfigError, DatasetConfig, EvaluationConfig
from stat_repro.data.errors import DataError
from stat_repro.data.task_data import load_task_data
from stat_repro.evaluation.predictions import mean_of_tokens
from stat_repro.run.dry_run import forecast
from stat_repro.run.pipeline import run_experiment
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.workloads import SimilarityWorkload


def pairs(path, rows, shift=0):
    """A csv without header in the widespread copy's form."""
    lines = [
        f"{' '.join(WORDS[i : i + 3])},{' '.join(WORDS[i + shift : i + 5])},{(i % 11) / 2}"
        for i in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def stsb(tmp_path):
    for part, rows in (("train", 20), ("dev", 9)):
        pairs(tmp_path / f"stsb-en-{part}.csv", rows, shift=part == "dev")
    return tmp_path


def config_of(folder, **more):
    return DatasetConfig(
        name="s", task="similarity", source="glue:stsb", path=str(folder), max_length=16, **more
    )


def test_the_score_of_a_pair_is_the_cosine_of_the_means_over_its_tokens(stsb):
    config = config_of(stsb)
    data = load_task_data(config)
    model, tokenizer = pico_model("mpnet", "Model"), word_tokenizer()
    workload = SimilarityWorkload(data, config, tokenizer)
    evaluation = EvaluationConfig(split="validation", batch_size=4)
    got = workload.dense_outputs(model, evaluation)
    rows = data.split("validation")
    expected = []
    for texts in zip(rows["text"], rows["text_pair"], strict=True):
        with torch.no_grad():
            hidden = [
                model(**tokenizer(text, return_tensors="pt")).last_hidden_state for text in texts
            ]
        first, second = (states[0].mean(dim=0) for states in hidden)
        expected.append(torch.cosine_similarity(first, second, dim=0))
    torch.testing.assert_close(got[:, 0], torch.stack(expected))
    metrics = workload.evaluate(model, model, got, evaluation).metrics
    assert metrics["fidelity"] == {"mse_to_dense": 0.0}
    assert metrics["dense"] == metrics["pruned"]
    assert metrics["protocol"]["score"].startswith("cosine")


def test_a_mean_over_many_tokens_stays_in_the_range_of_float16():
    states = torch.full((1, 512, 2), 200.0, dtype=torch.float16)
    output = SimpleNamespace(last_hidden_state=states)
    mean = mean_of_tokens(output, {"attention_mask": torch.ones(1, 512, dtype=torch.int64)})
    assert mean.tolist() == [[200.0, 200.0]]


def test_single_sentences_are_calibrated_on_and_labels_are_refused(stsb):
    config = config_of(stsb)
    workload = SimilarityWorkload(load_task_data(config), config, word_tokenizer())
    drawn = workload.calibration(CalibrationConfig(examples=40, batch_size=8), 0)
    assert (
        sum(len(batch["input_ids"]) for batch in drawn.batches) == 40
    )  # both sentences of 20 pairs
    with pytest.raises(ConfigError, match="reads no labels where task=similarity"):
        workload.calibration(CalibrationConfig(examples=4, batch_size=8), 0, labels=True)


def test_single_sentences_have_no_similarity():
    with pytest.raises(DataError, match="expected the column of the second sentence"):
        load_task_data(DatasetConfig(name="s", task="similarity", source="asset:tweets"))


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])  # the second has no pooler
def test_the_whole_program_runs_without_a_head(head, stsb, tmp_path):
    folder = tmp_path / "encoder"
    pico_model("mpnet", head).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    overrides = ["model=hf", f"model.path={folder}", "model.name=pico", "dataset=stsb_similarity"]
    settings = [f"dataset.path={stsb}", "dataset.max_length=16", "calibration.examples=30"]
    config = compose_here([*overrides, *settings, "ratio=0.4", *common_overrides(tmp_path)])
    record = run_experiment(config, SweepCache()).record
    assert re.search(rf"parameters +{record.costs['params']['dense']:,} ", forecast(config))
    assert record.mac_kept_fraction <= 0.6
    assert record.task == "similarity"
    assert set(record.metrics["pruned"]) == {"pearson", "spearman"}
    assert record.provenance["finetuned"] is False
