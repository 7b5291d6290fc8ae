"""Benchmarks by hub name: with the network off there is one message, with all that helps."""

import datasets
import pytest
from datasets.exceptions import DatasetNotFoundError

from stat_repro.data.errors import DataError
from stat_repro.data.hub import from_hub, local_copy


def test_without_a_network_the_message_says_what_to_do():
    with pytest.raises(DataError) as caught:
        from_hub(
            "nyu-mll/glue",
            subset="mnli",
            split="validation_matched",
            key="dataset.path",
            local_form="train.tsv and dev.tsv",
        )
    text = str(caught.value)
    for part in ("nyu-mll/glue", "mnli", "validation_matched", "hub", "dataset.path=<path>"):
        assert part in text
    assert "train.tsv and dev.tsv" in text
    assert "\n" not in text


def test_what_exists_is_local_and_what_looks_like_a_path_must_exist(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nyu-mll" / "glue").mkdir(parents=True)
    assert local_copy("nyu-mll/glue", "dataset.path") == tmp_path / "nyu-mll" / "glue"
    assert local_copy("nyu-mll/other", "dataset.path") is None
    for path in ("./missing", "/missing/file", "~/missing", "a/b/c", "missing.json"):
        with pytest.raises(DataError, match=r"dataset\.path=.*does not exist"):
            local_copy(path, "dataset.path")


@pytest.mark.parametrize("reason", ["'a/b' is a gated dataset on the Hub.", "'a/b' doesn't exist."])
@pytest.mark.parametrize("first", [None, 5])
def test_gated_and_missing_data_sets(monkeypatch, reason, first):
    def load_dataset(*arguments, **options):
        raise DatasetNotFoundError(f"{reason}\nAsk for it.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as caught:
        from_hub("a/b", split="train", key="dataset.path", local_form="train.tsv", first=first)
    text = str(caught.value)
    for part in (f"{reason} Ask for it.", "hf auth login", "dataset.path=<path> with train.tsv"):
        assert part in text
