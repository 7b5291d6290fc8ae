"""Folders that lack weights, bring code, or hide pickled weights: loading and fine-tuning alike."""

import builtins
import json
import logging

import pytest
import torch
from pico_checkpoints import as_json
from pico_project import save_checkpoint
from safetensors.torch import load_file, save_file
from toy_sentences import save_base, task_data, train_task

from stat_repro.config import ModelConfig
from stat_repro.finetune.recipe import FinetuneError, has_task_head
from stat_repro.models.loading import ModelLoadError, checkpoint_folder, load_checkpoint
from stat_repro.models.tensor_files import TensorFileError

pytestmark = pytest.mark.usefixtures("own_cache")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(folder):
    return load_checkpoint(folder, "classification", "float32", torch.device("cpu"))


def finetune(folder):
    return train_task(folder, task_data())


@pytest.fixture(params=["load", "finetune"])
def case(request, tmp_path):
    """What reads a folder, and such a folder: a classifier, or an encoder to be trained."""
    if request.param == "load":
        return load, save_checkpoint(tmp_path / "bert", "bert")
    return finetune, save_base(tmp_path / "base")


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(as_json(path) | values))


def change_weights(folder, change):
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def without_a_bias(folder):
    bias = next(
        name for name in load_file(folder / WEIGHTS) if name.endswith("1.output.dense.bias")
    )
    change_weights(folder, lambda state: state.pop(bias))


def with_more_layers(folder):
    change_config(folder, num_hidden_layers=5)


def with_another_width(folder):
    change_config(folder, intermediate_size=12)


def outside_index(folder):
    names = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    places = dict.fromkeys(names, "../outside.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def decoy(folder):
    """Pickled weights, which transformers takes where the safetensors file has another name."""
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).rename(folder / "x.safetensors")


def no_number(folder):
    change_config(folder, num_attention_heads="four")


def no_heads(folder):
    change_config(folder, num_attention_heads=0)


def list_config(folder):
    (folder / "config.json").write_text("[]")


def deep_config(folder):
    (folder / "config.json").write_text('{"a":' * 100_000)


def out_of_memory(folder):
    change_config(folder, vocab_size=2**55)


REFUSED = [
    (without_a_bias, ModelLoadError, r"lack 1 of them \(first: bert.*1\.output\.dense\.bias"),
    (with_more_layers, ModelLoadError, r"lack \d\d of them \(first: bert\.encoder\.layer\.\d"),
    (with_another_width, ModelLoadError, r"bert\.enc.*expected shape \(12,\), as in .*; got \(\d+"),
    (outside_index, TensorFileError, "names of files beside it; got '../outside"),
    (decoy, TensorFileError, "expected model.safetensors or .*index.json; got neither"),
    (no_number, ModelLoadError, "num_attention_heads"),
    (no_heads, ModelLoadError, "(bert|base): cannot be loaded as"),
    (list_config, ModelLoadError, "config.json: expected a JSON object; got a list"),
    (deep_config, ModelLoadError, "config.json: expected a JSON object; got: maximum"),
    (out_of_memory, ModelLoadError, "(bert|base): cannot be loaded as AutoModel"),
]


@pytest.mark.parametrize(("damage", "error", "message"), REFUSED)
def test_a_folder_that_lacks_what_its_model_needs_is_refused(case, damage, error, message):
    read, folder = case
    damage(folder)
    with pytest.raises(error, match=message):
        read(folder)


def test_tensors_that_the_model_does_not_have_are_told(case, caplog):
    read, folder = case
    change_config(folder, num_hidden_layers=1)
    change_weights(folder, lambda s: s.update({"bert.embeddings.position_ids": torch.ones(1)}))
    with caplog.at_level(logging.WARNING, "stat_repro"):
        read(folder)
    told = [record.getMessage() for record in caplog.records if record.name == "stat_repro"]
    assert len(told) == 1
    assert "16 tensors are not of BertForSeq" in told[0] or "32 tensors are not of" in told[0]
    assert "layer.1.attention.output.LayerNorm.bias" in told[0]


@pytest.mark.parametrize("kind", ["bert", "evil"])
def test_code_of_a_folder_does_not_run_whoever_answers_yes(case, kind, monkeypatch, tmp_path):
    """transformers asks on the terminal where nothing says whether code may run."""
    read, folder = case
    monkeypatch.setattr(builtins, "input", lambda *question: "y")
    (folder / "evil.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "from transformers import BertConfig as C, BertForSequenceClassification as M\n"
    )
    classes = {"AutoConfig": "evil.C", "AutoModelForSequenceClassification": "evil.M"}
    change_config(folder, model_type=kind, auto_map=classes)
    if kind == "bert":
        read(folder)  # the class of transformers, not that of the folder
    else:
        with pytest.raises(ModelLoadError, match=r"cannot be loaded as .*trust_remote_code"):
            read(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_beside_a_decoy_are_refused_before_anything_else(tmp_path):
    folder = save_checkpoint(tmp_path / "bert", "bert")
    decoy(folder)
    with pytest.raises(ModelLoadError, match=r"in model\.safetensors or .* lists \(pickled"):
        checkpoint_folder(ModelConfig(name="x", path=str(folder)))


@pytest.mark.parametrize("architectures", [None, [], ["BertModel"], ["BertForTokenClassification"]])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_trained_head_that_the_configuration_does_not_name(tmp_path, architectures, task):
    """It would be trained again, and nothing would be said."""
    folder = save_checkpoint(tmp_path / "bert", "bert")
    change_config(folder, architectures=architectures)
    # Tokens are classified by a head of the same tensors, which must not be taken for this one.
    way = "a model with such" if architectures == ["BertForTokenClassification"] else "that class"
    with pytest.raises(FinetuneError, match=rf"weights hold classifier.*choose {way}"):
        has_task_head(folder, task)
    assert not has_task_head(folder, "question_answering")


def test_a_head_of_which_a_part_is_missing_is_not_made_anew(tmp_path):
    folder = save_checkpoint(tmp_path / "bert", "bert")
    change_weights(folder, lambda state: state.pop("classifier.bias"))
    with pytest.raises(ModelLoadError, match=r"lack 1 of them \(first: classifier\.bias\)"):
        load(folder)
    with pytest.raises(ModelLoadError, match=r"lack 1 of them \(first: classifier\.bias\)"):
        finetune(folder)


@pytest.mark.parametrize("architectures", ["BertModel", [1], {"a": 1}])
def test_architectures_of_another_type(tmp_path, architectures):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    with pytest.raises(FinetuneError, match="architectures: expected a list of class names; got"):
        has_task_head(tmp_path, "classification")
