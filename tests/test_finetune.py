"""Fine-tuning of a tiny random BERT on separable sentences: learning, caching, determinism."""

import errno
import json
import math
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from stat_repro.assets.cache import AssetError
from stat_repro.config import FinetuneConfig
from stat_repro.data.errors import DataError
from stat_repro.data.task_data import TaskData, fingerprint_of
from stat_repro.evaluation.predictions import predicted_classes
from stat_repro.finetune import loop as training
from stat_repro.finetune import recipe as finetune
from stat_repro.finetune.loop import TrainingError, learning_rate_factor
from stat_repro.finetune.recipe import FinetuneError, has_task_head, task_checkpoint
from stat_repro.models.loading import ModelLoadError

CPU = torch.device("cpu")
GOOD, BAD = ("fine", "lovely", "superb"), ("dull", "awful", "dire")
FILLER = ("the", "film", "was", "and", "plot", "actor", "a", "of")
QUICK = FinetuneConfig(epochs=8, batch_size=16, learning_rate=3e-3, seed=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STAT_REPRO_CACHE", str(tmp_path / "cache"))


def _tokenizer():
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLER, *GOOD, *BAD)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def _save_base(folder, model):
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=18,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            initializer_range=0.1,
        )
        model = BertModel(config, add_pooling_layer=False)
    return _save_base(tmp_path_factory.mktemp("base"), model)


def _rows(count, seed, regression=False):
    rng = random.Random(seed)
    texts, labels = [], []
    for index in range(count):
        label = index % 2
        words = rng.choices(FILLER, k=rng.randint(2, 12))
        words.insert(rng.randrange(len(words)), rng.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
        labels.append(2.0 * label - 1.0 if regression else label)
    return datasets.Dataset.from_dict({"text": texts, "label": labels})


def _data(task="classification", train=160):
    regression = task == "regression"
    splits = {"train": _rows(train, 0, regression), "validation": _rows(40, 1, regression)}
    return TaskData(
        name="toy",
        task=task,
        splits=splits,
        label_names=None if regression else ("negative", "positive"),
        fingerprint={name: fingerprint_of(rows.to_dict()) for name, rows in splits.items()},
    )


@pytest.fixture(scope="module")
def data():
    return _data()


def _train(base, data, config=QUICK, **changes):
    arguments = {"base_hash": "base", "max_length": 16, "device": CPU} | changes
    return task_checkpoint(base, data=data, config=config, **arguments)


def _weights(folder):
    return load_file(folder / "model.safetensors")


def _entries(tmp_path):
    """What is in the cache, finished or not."""
    folders = [tmp_path / "cache" / "checkpoints", *(tmp_path / "cache" / "partial").glob("*.tmp")]
    return sorted(p.name for f in folders if f.is_dir() for p in f.iterdir())


def test_learns_a_separable_task_and_stores_its_recipe(base, data):
    folder = _train(base, data)
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
        base = _save_base(tmp_path / "base", DistilBertModel(config))
    folder = _train(base, data)
    assert json.loads((folder / "recipe.json").read_text())["validation"]["accuracy"] >= 0.9


def test_regression(base):
    folder = _train(base, _data("regression"))
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
        weights.append(_weights(_train(base, data, replace(QUICK, epochs=1, seed=seed))))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert np.array_equal(np.random.get_state()[1], before[2])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["classifier.weight"], weights[2]["classifier.weight"])


def _fake_training(monkeypatch, action=lambda: None):
    calls = []

    def train(*args):
        calls.append(args)
        action()
        return [0.5]

    monkeypatch.setattr(finetune, "train", train)
    return calls


def test_second_call_takes_the_cached_folder(base, data, monkeypatch):
    calls = _fake_training(monkeypatch)
    first = _train(base, data)
    assert _train(base, data) == first
    # Whether training is allowed does not change what a recipe leads to.
    assert _train(base, data, replace(QUICK, enabled=False)) == first
    assert len(calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"config": replace(QUICK, epochs=4)},
        {"config": replace(QUICK, seed=7)},
        {"config": replace(QUICK, max_examples=20)},
        {"config": replace(QUICK, bfloat16=True)},
        {"base_hash": "other"},
        {"max_length": 8},
        {"data": _data(train=158)},
        {"data": replace(_data(), label_names=("no", "yes"))},
    ],
)
def test_another_recipe_has_another_folder(base, data, monkeypatch, change):
    calls = _fake_training(monkeypatch)
    arguments = {"data": data} | change
    assert _train(base, data) != _train(base, **arguments)
    assert len(calls) == 2


def test_two_callers_train_once(base, data, monkeypatch):
    calls = _fake_training(monkeypatch, lambda: time.sleep(0.5))
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(_train(base, data))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 2
    assert len(set(folders)) == 1
    assert len(calls) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_training_leaves_nothing(base, data, tmp_path, monkeypatch, error):
    def interrupt():
        raise error

    _fake_training(monkeypatch, interrupt)
    with pytest.raises(error):
        _train(base, data)
    assert _entries(tmp_path) == []


def test_interrupted_saving_leaves_nothing(base, data, tmp_path, monkeypatch):
    _fake_training(monkeypatch)
    present = []

    def full_disk(*args, **kwargs):
        present.extend(_entries(tmp_path))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full_disk)
    with pytest.raises(AssetError, match="the disk is full"):
        _train(base, data)
    # The half-written folder was there, under another name than the final one.
    assert present == ["folder"]
    assert _entries(tmp_path) == []


def test_decoder_is_refused(tmp_path, data):
    config = LlamaConfig(
        vocab_size=18,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    base = _save_base(tmp_path / "llama", LlamaForCausalLM(config))
    with pytest.raises(FinetuneError, match="recipe for bert and distilbert, not for 'llama'"):
        _train(base, data)
    assert has_task_head(base, "language_modeling")
    assert not has_task_head(base, "classification")


def test_damaged_encoder_is_refused(base, data, tmp_path):
    broken = shutil.copytree(base, tmp_path / "broken")
    weights = load_file(base / "model.safetensors")
    weights = {k: v for k, v in weights.items() if "layer.1.output.dense" not in k}
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FinetuneError, match="lacks weights of the encoder, 2 of them"):
        _train(broken, data)
    (broken / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelLoadError, match="broken: cannot be loaded as AutoModelForSequence"):
        _train(broken, data)


def test_encoder_without_tokenizer_is_refused(base, data, tmp_path):
    bare = shutil.copytree(base, tmp_path / "bare", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(ModelLoadError, match="expected the model's tokenizer files"):
        _train(bare, data)
    assert _entries(tmp_path) == []


def test_sentences_longer_than_the_encoder_can_read_are_refused(base, data):
    with pytest.raises(DataError, match=r"dataset\.max_length: expected at most 32, .*; got 33"):
        _train(base, data, max_length=33)


def test_no_training_examples_is_an_error(base, data):
    for splits in ({}, {"train": data.splits["train"].select([])}):
        with pytest.raises(FinetuneError, match="toy has no training examples"):
            _train(base, replace(data, splits=splits))


def test_language_data_is_refused(base, data):
    with pytest.raises(FinetuneError, match="got language_modeling"):
        _train(base, replace(data, task="language_modeling"))


def test_diverging_training_is_an_error(base, data, tmp_path):
    with pytest.raises(TrainingError, match=r"expected a finite loss; got .* in epoch 1"):
        _train(base, data, replace(QUICK, learning_rate=1e30, epochs=1))
    assert _entries(tmp_path) == []


def test_bfloat16_learns_and_stores_float32(base, data):
    folder = _train(base, data, replace(QUICK, bfloat16=True))
    assert json.loads((folder / "recipe.json").read_text())["validation"]["accuracy"] >= 0.9
    assert {w.dtype for w in _weights(folder).values()} == {torch.float32}


def test_validation_split_may_be_missing(base, data, monkeypatch):
    _fake_training(monkeypatch)
    folder = _train(base, replace(data, splits={"train": data.splits["train"]}))
    assert json.loads((folder / "recipe.json").read_text())["validation"] is None


def test_learning_rate_rises_and_falls():
    factors = [learning_rate_factor(step, 10, 0.2) for step in range(10)]
    assert factors == pytest.approx([1 / 2, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert learning_rate_factor(0, 10, 0.0) == 1
    assert learning_rate_factor(9, 10, 1.0) == 1


def test_decay_spares_vectors(base):
    model = AutoModelForSequenceClassification.from_pretrained(base)
    groups = training._optimizer(model, replace(QUICK, weight_decay=0.3)).param_groups
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


@pytest.mark.parametrize(
    ("config", "task", "expected"),
    [
        ({"architectures": ["BertModel"]}, "classification", False),
        ({}, "classification", False),
        ({"architectures": None}, "regression", False),
        ({"architectures": ["BertForSequenceClassification"]}, "classification", True),
        ({"architectures": ["DistilBertForSequenceClassification"]}, "regression", True),
        ({"architectures": ["LlamaForCausalLM"]}, "language_modeling", True),
        ({"architectures": ["LlamaModel"]}, "language_modeling", False),
    ],
)
def test_task_head_is_read_from_the_configuration(tmp_path, config, task, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert has_task_head(tmp_path, task) is expected


def test_unknown_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected one of classification, regression"):
        has_task_head(tmp_path, "glue")


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
