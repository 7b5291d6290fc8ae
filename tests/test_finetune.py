"""Fine-tuning of a tiny random BERT on separable sentences: learning and determinism."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from pico_models import ENCODERS, pico_model
from toy_sentences import (
    QUICK,
    replace_training,
    save_base,
    save_encoder,
    task_data,
    train_task,
    weights_of,
)
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
)

from stat_repro.config import FinetuneConfig
from stat_repro.evaluation.predictions import predicted_classes
from stat_repro.finetune import loop as training
from stat_repro.finetune.loop import learning_rate_factor
from stat_repro.finetune.recipe import has_task_head

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data():
    return task_data()


def test_learns_a_separable_task_and_stores_its_recipe(base, data):
    folder = train_task(base, data)
    record = json.loads((folder / "recipe.json").read_text())
    assert record["validation"]["accuracy"] >= 0.95
    assert record["training_loss"][-1] < record["training_loss"][0] / 2
    assert len(record["training_loss"]) == QUICK.epochs
    assert record["recipe"]["finetune"]["learning_rate"] == QUICK.learning_rate
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model.config.label2id == {"negative": 0, "positive": 1}
    inputs = AutoTokenizer.from_pretrained(folder)(
        ["the film was superb", "the plot was dire"], return_tensors="pt", padding=True
    )
    assert predicted_classes(model(**inputs).logits).tolist() == [1, 0]
    assert has_task_head(folder, "classification")


def test_distilbert_has_a_recipe(tmp_path, data):
    config = DistilBertConfig(
        vocab_size=18,
        dim=16,
        n_layers=1,
        n_heads=2,
        hidden_dim=32,
        max_position_embeddings=32,
        initializer_range=0.1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = save_encoder(tmp_path / "base", DistilBertModel(config))
    folder = train_task(base, data)
    assert json.loads((folder / "recipe.json").read_text())["validation"]["accuracy"] >= 0.9


@pytest.mark.parametrize("name", [name for name in ENCODERS if name not in ("bert", "distilbert")])
def test_every_encoder_has_a_recipe(name, tmp_path):
    """That of its head on top of weights that have none; the rest of the weights is the base's."""
    encoder = pico_model(name, "Model")
    base = save_encoder(tmp_path / "base", encoder)
    folder = train_task(base, task_data(train=8), replace(QUICK, epochs=1, learning_rate=1e-30))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert has_task_head(folder, "classification")
    trained = model.base_model.state_dict()
    kept = [key for key in encoder.state_dict() if key in trained]
    assert len(kept) >= 20
    assert all(torch.equal(encoder.state_dict()[key], trained[key]) for key in kept)


def test_regression(base):
    folder = train_task(base, task_data("regression"))
    record = json.loads((folder / "recipe.json").read_text())
    assert record["validation"]["pearson"] >= 0.9
    # The targets are -1 and 1: predicting the mean would leave a loss of 1.
    assert record["training_loss"][-1] < 0.3
    assert has_task_head(folder, "regression")


def test_seed_decides_everything_and_the_callers_state_stays(base, data, tmp_path, monkeypatch):
    weights = []
    for run, seed in enumerate((1, 1, 2)):
        monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / f"run{run}"))
        torch.manual_seed(100 + run)
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        weights.append(weights_of(train_task(base, data, replace(QUICK, epochs=1, seed=seed))))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.array_equal(np.random.get_state()[1], before[2])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])


def test_bfloat16_learns_and_stores_float32(base, data):
    folder = train_task(base, data, replace(QUICK, bfloat16=True))
    assert json.loads((folder / "recipe.json").read_text())["validation"]["accuracy"] >= 0.9
    assert {w.dtype for w in weights_of(folder).values()} == {torch.float32}


def test_validation_split_may_be_missing(base, data, monkeypatch):
    replace_training(monkeypatch)
    folder = train_task(base, replace(data, splits={"train": data.splits["train"]}))
    assert json.loads((folder / "recipe.json").read_text())["validation"] is None


def test_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert learning_rate_factor(0, 10, 0.0) == 1
    assert learning_rate_factor(9, 10, 1.0) == 1


def test_decay_spares_vectors(base):
    model = AutoModelForSequenceClassification.from_pretrained(base)
    optimization = training.Optimization(model, replace(QUICK, weight_decay=0.3), steps=1)
    groups = optimization._optimizer.param_groups
    assert {g["weight_decay"]: {p.ndim for p in g["params"]} for g in groups} == {
        0.3: {2},
        0.0: {1},
    }
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))


def test_epoch_takes_every_example_once_in_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 100, size=1003).tolist()
    generator = torch.Generator().manual_seed(0)
    first = list(training._epoch_batches(lengths, 8, generator))
    second = list(training._epoch_batches(lengths, 8, generator))
    assert sorted(i for batch in first for i in batch) == list(range(1003))
    assert len(first) == math.ceil(1003 / 8)
    assert first != second
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in first]
    # Random batches of eight of these lengths would spread over about 77.
    assert np.mean(spread) < 10


CONF = Path(__file__).parent.parent / "conf"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("standard", {"enabled": True, "bfloat16": False, "max_examples": None}),
        ("short", {"enabled": True, "epochs": 1, "max_examples": 600}),
        ("none", {"enabled": False}),
    ],
)
def test_configurations_fit_the_schema(name, expected):
    given = OmegaConf.load(CONF / "finetune" / f"{name}.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(FinetuneConfig), given))
    assert {key: getattr(config, key) for key in expected} == expected
