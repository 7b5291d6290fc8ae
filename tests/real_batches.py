"""Batches of the packaged movie reviews."""

from stat_repro.config import DatasetConfig
from stat_repro.data.batching import sentence_batches
from stat_repro.data.task_data import load_task_data


def movie_batches(tokenizer, examples):
    config = DatasetConfig(
        name="movie_reviews", task="classification", source="asset:movie_reviews"
    )
    rows = load_task_data(config).splits["train"]
    return sentence_batches(tokenizer, rows, 128, 32, range(examples)).inputs
