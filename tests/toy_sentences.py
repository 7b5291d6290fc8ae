"""Separable sentences, a tiny encoder for them, and its fine-tuning."""

import random

import datasets
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)

from stat_repro.config import FinetuneConfig
from stat_repro.data.task_data import TaskData, fingerprint_of
from stat_repro.finetune import recipe as finetune
from stat_repro.finetune.recipe import task_checkpoint

CPU = torch.device("cpu")
GOOD, BAD = ("fine", "lovely", "superb"), ("dull", "awful", "dire")
FILLER = ("the", "film", "was", "and", "plot", "actor", "a", "of")
QUICK = FinetuneConfig(epochs=8, batch_size=16, learning_rate=3e-3, seed=1)


def sentence_tokenizer():
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


def save_encoder(folder, model):
    model.save_pretrained(folder)
    sentence_tokenizer().save_pretrained(folder)
    return folder


def save_base(folder):
    """A random BERT without a task head."""
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
    return save_encoder(folder, model)


def sentences(count, seed, regression=False):
    rng = random.Random(seed)
    texts, labels = [], []
    for index in range(count):
        label = index % 2
        words = rng.choices(FILLER, k=rng.randint(2, 12))
        words.insert(rng.randrange(len(words)), rng.choice(GOOD if label else BAD))
        texts.append(" ".join(words))
        labels.append(2.0 * label - 1.0 if regression else label)
    return datasets.Dataset.from_dict({"text": texts, "label": labels})


def task_data(task="classification", train=160):
    regression = task == "regression"
    splits = {"train": sentences(train, 0, regression), "validation": sentences(40, 1, regression)}
    return TaskData(
        name="toy",
        task=task,
        splits=splits,
        label_names=None if regression else ("negative", "positive"),
        fingerprint={name: fingerprint_of(rows.to_dict()) for name, rows in splits.items()},
    )


def train_task(base, data, config=QUICK, **changes):
    arguments = {"base_hash": "base", "max_length": 16, "device": CPU} | changes
    return task_checkpoint(base, data=data, config=config, **arguments)


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def cache_entries(tmp_path):
    """What is in the cache, finished or not."""
    folders = [tmp_path / "cache" / "checkpoints", *(tmp_path / "cache" / "partial").glob("*.tmp")]
    return sorted(p.name for f in folders if f.is_dir() for p in f.iterdir())


def replace_training(monkeypatch, action=lambda: None):
    calls = []

    def train(*args):
        calls.append(args)
        action()
        return [0.5]

    monkeypatch.setattr(finetune, "train", train)
    return calls
