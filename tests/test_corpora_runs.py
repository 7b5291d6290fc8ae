"""WikiText-2, PTB and C4 from the command line to the record."""

import weakref

import pytest
import torch
from corpus_files import write_c4
from pico_config import compose_run
from pico_data import word_tokenizer
from pico_models import pico_model
from pico_project import save_checkpoint, write_text
from pico_runs import run_one

from stat_repro.config import ConfigError, DatasetConfig
from stat_repro.data.corpora import CORPORA
from stat_repro.data.errors import DataError
from stat_repro.data.text_data import load_text_data
from stat_repro.run.identity import identify
from stat_repro.run.sweep_cache import SweepCache
from stat_repro.workloads import WindowWorkload


def direct_nll(model, windows):
    """The models' own loss; windows are of one length, so their mean is that of the tokens."""
    with torch.no_grad():
        return sum(float(model(input_ids=w[None], labels=w[None]).loss) for w in windows) / len(
            windows
        )


def test_a_window_beyond_the_models_positions_is_refused(tmp_path):
    overrides = project(tmp_path, "dataset.window=65")
    with pytest.raises(DataError, match=r"at most 64 tokens.*got 65.*dataset\.window=64"):
        SweepCache().dense(compose_run(*overrides))


def project(folder, *more):
    """Overrides for a pico Llama on a local WikiText-2."""
    checkpoint = save_checkpoint(folder / "llama", "llama_grouped")
    parts = folder / "parts"
    parts.mkdir()
    for seed, (name, words) in enumerate([("train", 900), ("valid", 300), ("test", 205)]):
        write_text(parts / f"{name}.txt", words, seed)
    return [
        *("model=hf", f"model.path={checkpoint}", "model.name=pico", "dataset=wikitext2"),
        *(f"dataset.path={parts}", "dataset.window=16", "calibration.examples=12"),
        *more,
    ]


def test_record_of_a_corpus(tmp_path):
    record = run_one(compose_run(*project(tmp_path, "ratio=0.3", "evaluation.max_examples=10")))
    protocol = record.metrics["protocol"]
    tokenizer = word_tokenizer()
    ids = tokenizer((tmp_path / "parts" / "test.txt").read_text())["input_ids"]
    windows = torch.tensor(ids[:160]).view(10, 16)
    model = pico_model("llama_grouped")
    assert record.metrics["dense"]["nll"] == pytest.approx(direct_nll(model, windows), rel=1e-5)
    expected = {
        "corpus": "wikitext2",
        "split": "test",
        "calibrated_on": "wikitext2 train",
        "tokens_per_window": 16,
        "windows": 10,
        "windows_in_text": len(ids) // 16,
        "dropped_tokens": len(ids) % 16,
        "predicted_tokens": 150,
        "bos": "first",
        "special_tokens": "as the tokenizer adds them to the whole text: 2",
        "text": "local: one document as it is",
        "documents": 1,
        "join": "\n\n",
        "unk_in_text": 0,
    }
    assert {key: protocol[key] for key in expected} == expected
    assert {"wikitext2 test", "wikitext2 train"} < set(record.provenance["data_hashes"])
    assert record.config["dataset"]["calibration_split"] == "train"


def test_other_part_other_corpus_other_result(tmp_path):
    overrides = project(tmp_path, "ratio=0.3")
    c4 = write_c4(tmp_path / "c4", train=300)
    cache = SweepCache()
    base, validation, split, foreign = (
        run_one(compose_run(*overrides, *more), cache)
        for more in (
            (),
            ("evaluation.split=validation",),
            ("dataset.calibration_split=validation",),
            ("dataset.calibration_corpus=c4", f"dataset.calibration_path={c4}"),
        )
    )
    runs = (base, validation, split, foreign)
    assert len({run.run_id for run in runs}) == 4
    assert validation.metrics["dense"] != base.metrics["dense"]
    assert validation.plan["layers"] == base.plan["layers"]
    assert split.metrics["dense"] == foreign.metrics["dense"] == base.metrics["dense"]
    assert len({str(run.site_errors) for run in (base, split, foreign)}) == 3
    told = [run.metrics["protocol"]["calibrated_on"] for run in runs]
    assert told == ["wikitext2 train", "wikitext2 train", "wikitext2 validation", "c4 train"]
    with pytest.raises(ConfigError, match="two different parts"):
        compose_run(
            *overrides, "evaluation.split=validation", "dataset.calibration_split=validation"
        )


def test_statistics_go_before_another_dense_model_is_loaded(tmp_path, monkeypatch):
    overrides = project(tmp_path, "ratio=0.3")
    cache = SweepCache()
    kept = cache.calibrated(compose_run(*overrides))
    cache.dense(other_text := compose_run(*overrides, "evaluation.split=validation"))
    assert cache.calibrated(other_text).calibration is kept.calibration
    gone = weakref.ref(kept.calibration)
    del kept
    monkeypatch.setattr("stat_repro.run.sweep_cache._load_dense", lambda *_: gone())
    assert cache.dense(compose_run(*overrides, "dtype=float64")) is None


def test_the_content_of_local_files_makes_the_run(tmp_path):
    overrides = project(tmp_path)
    name = identify(compose_run(*overrides))
    moved = (tmp_path / "parts").rename(tmp_path / "moved")
    again = [*overrides, f"dataset.path={moved}"]
    assert identify(compose_run(*again)) == name
    (moved / "notes.md").write_text("not read")
    assert identify(compose_run(*again)) == name
    write_text(moved / "test.txt", 205, seed=9)
    assert identify(compose_run(*again)) != name


def test_editorials_and_own_text_are_cut_as_before(tmp_path):
    """The stored study's windows: no special tokens, protocol without further keys."""
    train, test = write_text(tmp_path / "a.txt", 100), write_text(tmp_path / "b.txt", 70, seed=1)
    config = DatasetConfig(
        name="mine",
        task="language_modeling",
        source="text",
        train=str(train),
        test=str(test),
        window=16,
    )
    tokenizer = word_tokenizer()
    workload = WindowWorkload(load_text_data(config), config, tokenizer, None)
    ids = tokenizer(test.read_text(), add_special_tokens=False)["input_ids"]
    model = pico_model("llama_grouped")
    evaluation = compose_run("dataset=text_file", "dataset.train=a", "dataset.test=b").evaluation
    got = workload.evaluate(model, model, None, evaluation).metrics
    assert got["dense"]["nll"] == pytest.approx(
        direct_nll(model, torch.tensor(ids[:64]).view(4, 16)), rel=1e-5
    )
    assert got["protocol"] == {
        "task": "language_modeling",
        "split": "test",
        "windows": 4,
        "tokens_per_window": 16,
        "predicted_tokens": 60,
        "join": "\n",
        "special_tokens": "none added",
        "context": "every window on its own; its first token is not predicted",
    }


@pytest.mark.parametrize("name", CORPORA)
def test_shipped_configurations_are_the_protocol(name):
    config = compose_run("model=smollm2", f"dataset={name}")
    known = CORPORA[name]
    assert (config.dataset.path, config.dataset.join) == (known.hub, known.join)
    assert config.dataset.text_column == known.text_column
    assert (config.dataset.window, config.dataset.bos) == (2048, "first")
    assert (config.calibration.examples, config.calibration.batch_size) == (128, 1)
    assert config.evaluation.split in known.files
    assert config.dataset.calibration_split == "train"


@pytest.mark.parametrize("bos", ["none", "first", "window"])
def test_gemma_without_its_bos_token_is_told(bos, tmp_path, caplog):
    train, test = (str(write_text(tmp_path / f"{i}.txt", 100, seed=i)) for i in range(2))
    config = DatasetConfig(
        name="mine", task="language_modeling", source="text", train=train, test=test, window=16,
        bos=bos,
    )  # fmt: skip
    tokenizer = word_tokenizer()
    tokenizer.bos_token = tokenizer.unk_token
    tokenizer.__class__ = type("GemmaTokenizer", (type(tokenizer),), {})
    WindowWorkload(load_text_data(config), config, tokenizer, None)
    assert ("choose dataset.bos=window" in caplog.text) == (bos != "window")
