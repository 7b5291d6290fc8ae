"""Batches of the packaged movie reviews."""

from stat_repro.config import DatasetConfig
from stat_repro.data.batching import calibration_batches, encode_sentences
from stat_repro.data.task_data import load_task_data


def movie_batches(tokenizer, examples):
    config = DatasetConfig(
        name="movie_reviews", task="classification", source="asset:movie_reviews"
    )
    rows = load_task_data(config).splits["train"]
    chosen = encode_sentences(tokenizer, rows.select(range(examples)), 128)
    return calibration_batches(tokenizer, chosen, 32)
