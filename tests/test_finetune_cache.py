"""Task checkpoints are trained once, kept in the cache, and left out of it when interrupted."""

import errno
import threading
import time
from dataclasses import replace

import pytest
from toy_sentences import (
    QUICK,
    cache_entries,
    replace_training,
    save_base,
    task_data,
    train_task,
)
from transformers import (
    PreTrainedTokenizerFast,
)

from stat_repro.assets import cache
from stat_repro.assets.cache import AssetError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data():
    return task_data()


def test_second_call_takes_the_cached_folder(base, data, monkeypatch):
    calls = replace_training(monkeypatch)
    first = train_task(base, data)
    assert train_task(base, data) == first
    # Whether training is allowed does not change what a recipe leads to.
    assert train_task(base, data, replace(QUICK, enabled=False)) == first
    assert len(calls) == 1


def test_a_damaged_checkpoint_is_told_and_trained_again(base, data, monkeypatch, capsys):
    calls = replace_training(monkeypatch)
    weights = train_task(base, data) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(cache, "_checked", {})  # as in the next process
    train_task(base, data)
    assert "changed since it was made: model.safetensors" in capsys.readouterr().err
    assert len(calls) == 2
    assert weights.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"config": replace(QUICK, epochs=4)},
        {"config": replace(QUICK, seed=7)},
        {"config": replace(QUICK, max_examples=20)},
        {"config": replace(QUICK, bfloat16=True)},
        {"base_hash": "other"},
        {"max_length": 8},
        {"data": task_data(train=158)},
        {"data": replace(task_data(), label_names=("no", "yes"))},
    ],
)
def test_another_recipe_has_another_folder(base, data, monkeypatch, change):
    calls = replace_training(monkeypatch)
    arguments = {"data": data} | change
    assert train_task(base, data) != train_task(base, **arguments)
    assert len(calls) == 2


def test_two_callers_train_once(base, data, monkeypatch):
    calls = replace_training(monkeypatch, lambda: time.sleep(0.5))
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(train_task(base, data))) for _ in range(2)
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

    replace_training(monkeypatch, interrupt)
    with pytest.raises(error):
        train_task(base, data)
    assert cache_entries(tmp_path) == []


def test_interrupted_saving_leaves_nothing(base, data, tmp_path, monkeypatch):
    replace_training(monkeypatch)
    present = []

    def full_disk(*args, **kwargs):
        present.extend(cache_entries(tmp_path))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full_disk)
    with pytest.raises(AssetError, match="the disk is full"):
        train_task(base, data)
    # The half-written folder was there, under another name than the final one.
    assert present == ["folder"]
    assert cache_entries(tmp_path) == []
