"""One experiment in process: what is refused, and when."""

import pytest
import torch
from pico_project import save_checkpoint, sentence_overrides, text_overrides
from pico_runs import compose_here, run_one, save_one
from transformers import AutoModelForSequenceClassification

from stat_repro.config import ConfigError
from stat_repro.data.errors import DataError
from stat_repro.models.loading import ModelLoadError
from stat_repro.run.sweep_cache import SweepCache


def test_sentences_longer_than_a_given_checkpoint_reads_are_refused_before_the_work(tmp_path):
    overrides = sentence_overrides(tmp_path)
    with pytest.raises(DataError, match=r"dataset.max_length: expected at most 40"):
        run_one(compose_here(overrides, "dataset.max_length=41"))


def test_code_in_a_model_folder_runs_only_when_asked_for(tmp_path):
    """A pruned folder under a foreign model type: refused, then loaded with trust_remote_code."""
    arguments = [*sentence_overrides(tmp_path), f"save_to={tmp_path / 'models'}"]
    _, folder = save_one(compose_here(arguments))
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"stat_bert"', '"foreign_bert"'))
    code = folder / "modeling_stat.py"
    named = 'f"stat_{stock.model_type}"'
    assert named in code.read_text()
    renamed = f'{named}.replace("stat_bert", "foreign_bert")'
    code.write_text(code.read_text().replace(named, renamed))
    again = [*arguments, f"model.path={folder}", "save_to=null"]
    with pytest.raises(ModelLoadError, match="trust_remote_code"):
        SweepCache().dense(compose_here(again))
    dense = SweepCache().dense(compose_here(again, "model.trust_remote_code=true"))
    assert dense.loaded.model.config.model_type == "foreign_bert"
    # That code names all architectures, and takes the place of none that the package has.
    _, ours = save_one(compose_here(arguments, "ratio=0.4"))
    loaded = AutoModelForSequenceClassification.from_pretrained(ours)
    assert type(loaded).__module__ == "stat_repro.models.modeling_stat"


def test_a_bare_encoder_without_finetuning_is_refused(tmp_path):
    arguments = sentence_overrides(tmp_path)
    bare = save_checkpoint(tmp_path / "bare", "bert", head="Model")
    config = compose_here(arguments, f"model.path={bare}", "finetune=none")
    with pytest.raises(ConfigError, match="finetune=none"):
        SweepCache().dense(config)


def test_an_encoder_is_refused_for_perplexity(tmp_path):
    arguments = text_overrides(tmp_path)
    encoder = save_checkpoint(tmp_path / "encoder", "bert")
    with pytest.raises(ConfigError, match="expected a causal language model for"):
        SweepCache().dense(compose_here(arguments, f"model.path={encoder}"))


def test_running_text_has_no_validation_part(tmp_path):
    with pytest.raises(ConfigError, match="only a test part"):
        compose_here(text_overrides(tmp_path), "evaluation.split=validation")


def test_a_folder_without_a_model_is_told(tmp_path):
    config = compose_here(sentence_overrides(tmp_path), f"model.path={tmp_path}")
    with pytest.raises(ModelLoadError, match=r"has no config\.json"):
        SweepCache().dense(config)


def test_a_missing_evaluation_part_is_told_first(tmp_path):
    config = compose_here(sentence_overrides(tmp_path), "evaluation.split=validation")
    with pytest.raises(ValueError, match="validation"):
        SweepCache().dense(config)


def test_pickled_weights_are_not_loaded(tmp_path):
    arguments = sentence_overrides(tmp_path)
    folder = tmp_path / "bert"
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="safetensors"):
        SweepCache().dense(compose_here(arguments))
