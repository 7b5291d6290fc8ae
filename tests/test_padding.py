"""Scores of sentences do not depend on how many of them are read together."""

import pytest
from pico_data import word_tokenizer
from pico_models import pico_model
from pico_project import sentence_overrides
from pico_runs import compose_here, run_one

from stat_repro.config import ConfigError
from stat_repro.run.sweep_cache import SweepCache

NAMES = {"id2label": {0: "down", 1: "up"}, "label2id": {"down": 0, "up": 1}}


def classifier(folder, name, side="right", **changes):
    """A classifier of random weights, whose tokenizer pads on this side."""
    pico_model(name, "ForSequenceClassification", **NAMES, **changes).save_pretrained(folder)
    word_tokenizer(side=side).save_pretrained(folder)
    return f"model.path={folder}"


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_batches_of_a_tokenizer_that_pads_on_the_left(name, tmp_path):
    given = [*sentence_overrides(tmp_path), classifier(tmp_path / name, name, "left")]
    scores = [
        run_one(compose_here(given, f"evaluation.batch_size={size}")).metrics["dense"]
        for size in (1, 7, 64)
    ]
    assert scores[0] == scores[1] == scores[2]


def test_a_decoder_whose_config_names_another_pad_token_is_refused(tmp_path):
    given = [*sentence_overrides(tmp_path), classifier(tmp_path / "x", "gpt2", pad_token_id=7)]
    with pytest.raises(ConfigError, match="expected pad_token_id=0 in the config of a decoder"):
        SweepCache().dense(compose_here(given))
