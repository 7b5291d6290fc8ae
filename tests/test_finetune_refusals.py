"""What cannot be fine-tuned, and which checkpoints need no fine-tuning."""

import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file
from toy_sentences import QUICK, cache_entries, save_base, save_encoder, task_data, train_task
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
)

from stat_repro.data.errors import DataError
from stat_repro.finetune.loop import TrainingError
from stat_repro.finetune.recipe import FinetuneError, has_task_head
from stat_repro.models.loading import ModelLoadError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data():
    return task_data()


def test_decoder_is_refused(tmp_path, data):
    config = LlamaConfig(
        vocab_size=18,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    base = save_encoder(tmp_path / "llama", LlamaForCausalLM(config))
    with pytest.raises(FinetuneError, match=r"expected an encoder, one of bert, .*; got 'llama'"):
        train_task(base, data)
    assert has_task_head(base, "language_modeling")
    assert not has_task_head(base, "classification")


def test_damaged_encoder_is_refused(base, data, tmp_path):
    broken = shutil.copytree(base, tmp_path / "broken")
    weights = load_file(base / "model.safetensors")
    weights = {k: v for k, v in weights.items() if "layer.1.output.dense" not in k}
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    lacking = r"lack 2 of them \(first: bert\.encoder\.layer\.1\.output\.dense\.bias\)"
    with pytest.raises(ModelLoadError, match=lacking):
        train_task(broken, data)
    (broken / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelLoadError, match="broken: cannot be loaded as AutoModelForSequence"):
        train_task(broken, data)


def test_encoder_without_tokenizer_is_refused(base, data, tmp_path):
    bare = shutil.copytree(base, tmp_path / "bare", ignore=shutil.ignore_patterns("token*"))
    with pytest.raises(ModelLoadError, match="expected the model's tokenizer files"):
        train_task(bare, data)
    assert cache_entries(tmp_path) == []


def test_sentences_longer_than_the_encoder_can_read_are_refused(base, data):
    with pytest.raises(
        DataError, match=r"dataset\.max_length: expected at most 32 tokens, .*; got 33"
    ):
        train_task(base, data, max_length=33)


def test_no_training_examples_is_an_error(base, data):
    for splits in ({}, {"train": data.splits["train"].select([])}):
        with pytest.raises(FinetuneError, match="toy has no training examples"):
            train_task(base, replace(data, splits=splits))


def test_diverging_training_is_an_error(base, data, tmp_path):
    with pytest.raises(TrainingError, match=r"expected a finite loss; got .* in epoch 1"):
        train_task(base, data, replace(QUICK, learning_rate=1e30, epochs=1))
    assert cache_entries(tmp_path) == []


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
