"""A default adapts to the data and the model, and says so; a value that was asked for does not."""

import json

import pytest
from pico_config import compose_run
from pico_project import save_checkpoint, sentence_overrides, text_overrides, write_text
from pico_runs import compose_here, run_one

import stat_repro
from stat_repro.config import ConfigError, run_id
from stat_repro.data.errors import DataError
from stat_repro.run.sweep_cache import SweepCache


def usual(overrides):
    """The overrides without lengths and numbers of examples."""
    asked = ("dataset.max_length=", "dataset.window=", "calibration.examples=")
    return [one for one in overrides if not one.startswith(asked)]


@pytest.mark.parametrize("make", [sentence_overrides, text_overrides])
def test_defaults_adapt_to_a_short_table_and_a_small_model(make, tmp_path, caplog):
    """Twice in a row the command was refused, for values that nobody had asked for."""
    overrides = usual(make(tmp_path))
    if make is text_overrides:
        write_text(tmp_path / "train.txt", 5000)
        write_text(tmp_path / "test.txt", 1000, seed=1)
    config = compose_here(overrides)
    record = run_one(config)
    text = make is text_overrides
    positions = 64 if text else 40
    assert f"{positions}, the model's positions, instead of {512 if text else 128}" in caplog.text
    assert "all there are, instead of the default" in caplog.text
    examples = record.costs["calibration_examples"]
    assert examples == 60 if not text else 0 < examples < 128
    if text:
        assert record.costs["sequence_length"] == positions
    else:
        assert record.metrics["protocol"]["max_length"] == positions
    asked = ("dataset.window=512",) if text else ("dataset.max_length=128",)
    with pytest.raises(DataError, match=rf"{asked[0][:-4]}.*expected at most {positions}"):
        SweepCache().dense(compose_here(overrides, *asked))
    many = compose_here(overrides, f"calibration.examples={128 if text else 512}")
    with pytest.raises(DataError, match=r"calibration\.examples: expected at most"):
        SweepCache().calibrated(many)
    # Asked for or not, the run id is that of the values.
    assert run_id(many) == run_id(config) == run_id(compose_here(overrides, *asked))


def test_defaults_stay_where_they_fit(tmp_path, caplog):
    overrides = [*usual(sentence_overrides(tmp_path)), "dataset.max_length=40"]
    large = save_checkpoint(
        tmp_path / "large", "bert", max_position_embeddings=300, id2label={0: "down", 1: "up"}
    )
    cache = SweepCache()
    cache.dense(compose_here(usual(overrides), f"model.path={large}"))
    assert cache.calibrated(compose_here(overrides, "calibration.replacement=true")).calibration
    assert "instead of" not in caplog.text


@pytest.mark.parametrize("key", ["seed", "finetune.seed"])
@pytest.mark.parametrize("value", [2**32, -1])
def test_seeds_that_no_generator_takes_are_refused_before_loading(key, value):
    with pytest.raises(ConfigError, match=rf"{key}: expected a value of at .* got {value}"):
        compose_run(f"{key}={value}")
    compose_run(f"{key}={2**32 - 1}")
    with pytest.raises(ConfigError, match=f"seed: expected 0 to 4294967295; got {value}"):
        stat_repro.compress(None, None, seed=value)


def test_a_folder_in_place_of_a_text_is_called_one(tmp_path):
    overrides = text_overrides(tmp_path)
    for part in ("train", "test"):
        config = compose_here(overrides, f"dataset.{part}={tmp_path}")
        with pytest.raises(DataError, match=f"dataset.{part}: expected a file; .* is a folder"):
            SweepCache().dense(config)


def test_a_checkpoint_of_another_problem_is_refused(tmp_path):
    overrides = sentence_overrides(tmp_path)
    path = tmp_path / "bert" / "config.json"
    for problem in ("multi_label_classification", "regression"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "problem_type": problem}))
        message = f"expected problem_type=single_label_classification .* got {problem}"
        with pytest.raises(ConfigError, match=message):
            SweepCache().dense(compose_here(overrides))
