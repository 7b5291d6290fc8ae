"""`stat-repro prune` and `eval`: how files are read, and what may be set."""

import json
import re
import shutil

import pandas as pd
import pytest
import torch
from pico_models import pico_model
from pico_project import save_checkpoint, write_table, write_text
from safetensors.torch import load_file
from squad_examples import write_squad
from tokenizers import Tokenizer

from stat_repro.config import ConfigError
from stat_repro.run import commands
from stat_repro.run.own_model import run_config

NAMES = {"id2label": {0: "down", 1: "up"}, "label2id": {"down": 0, "up": 1}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a classifier and a table."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "senti", "bert", **NAMES)
    write_table(tmp_path / "reviews.csv", 60)
    return tmp_path


def carried_out(*words, capsys):
    status = commands.main(words)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def config_of(*words):
    return run_config(commands.parser().parse_args(words))


def value_of(text, name):
    (line,) = (line for line in text.splitlines() if line.startswith(name))
    return line[len(name) :].split()


def test_running_text_for_gpt2(place, capsys):
    save_checkpoint(place / "gpt2", "gpt2")
    write_text(place / "prose.txt", 900)
    options = ("--data", "prose.txt", "--set", "dataset.window=16")
    pruned = carried_out("prune", "gpt2", *options, "--out", "small", capsys=capsys)
    again = carried_out("eval", "small", *options, capsys=capsys)
    assert value_of(pruned, "token perplexity")[1] == value_of(again, "token perplexity")[0]


def test_a_decoder_is_compared_with_one_of_the_same_tokens(place, capsys):
    for name in ("llama", "other"):
        save_checkpoint(place / name, "llama_grouped")
    file = place / "other/tokenizer.json"
    file.write_text(file.read_text().replace('"w1": 5', '"w2": 5', 1).replace('"w2": 6', '"w1": 6'))
    write_text(place / "prose.txt", 300)
    words = ("eval", "llama", "--data", "prose.txt", "--set", "dataset.window=16", "--dense")
    carried_out(*words, "llama", capsys=capsys)
    assert commands.main((*words, "other")) == 1
    assert "expected a model with the tokens of llama" in capsys.readouterr().err


def test_questions_with_another_file_to_evaluate(place, capsys):
    save_checkpoint(place / "answers", "bert", head="ForQuestionAnswering")
    write_squad(place / "train.json", articles=8)
    write_squad(place / "test.json", articles=5)
    # The windows of this model have 40 positions.
    lengths = ("--set", "dataset.max_length=40", "--set", "dataset.answers.stride=4")
    words = ("prune", "answers", "--data", "train.json", "--test", "test.json", *lengths)
    text = carried_out(*words, "--out", "small", capsys=capsys)
    assert "evaluated on 20\n" in text
    again = carried_out("eval", "small", "--data", "test.json", *lengths, capsys=capsys)
    assert "examples: 20\n" in again
    assert value_of(again, "F1 (%)")[0] == value_of(text, "F1 (%)")[1]


def test_outputs_of_the_dense_model_are_matched_by_its_own_names(place, capsys):
    model = pico_model("bert")
    with torch.no_grad():
        for parameter in (model.classifier.weight, model.classifier.bias):
            parameter.copy_(parameter.flip(0).clone())
    save_checkpoint(place / "swapped", "bert")
    model.config.id2label, model.config.label2id = {0: "up", 1: "down"}, {"up": 0, "down": 1}
    model.save_pretrained(place / "swapped")
    words = ("eval", "senti", "--data", "reviews.csv", "--dense", "swapped")
    text = carried_out(*words, capsys=capsys)
    dense, other, _ = value_of(text, "accuracy (%)")
    assert dense == other != "50.00"
    assert float(value_of(text, "agreement with dense (%)")[1]) == 100


def test_names_for_the_outputs_are_not_those_of_another_dense_model(place, capsys):
    """Of one whose outputs have the names of MODEL's they are."""
    save_checkpoint(place / "unnamed", "bert")
    words = ("eval", "unnamed", "--data", "reviews.csv", "--set", "model.labels=[up,down]")
    words = (*words, "--dense")
    text = carried_out(*words, "senti", capsys=capsys)
    dense, other, _ = value_of(text, "accuracy (%)")
    assert float(dense) + float(other) == pytest.approx(100)  # the same weights, other names
    text = carried_out(*words, "unnamed", capsys=capsys)
    assert value_of(text, "accuracy (%)")[:2] == [other, other]


def test_a_file_that_calibrated_as_a_whole_is_evaluated_as_a_whole(place, capsys, caplog):
    write_table(place / "test.csv", 17, seed=3)
    words = ("prune", "senti", "--data", "reviews.csv", "--test", "test.csv", "--out", "small")
    carried_out(*words, capsys=capsys)
    text = carried_out("eval", "small", "--data", "reviews.csv", capsys=capsys)
    assert "examples: 60\n" in text
    assert "held_out" not in text
    assert "all of reviews.csv is evaluated, and it calibrated the model" in caplog.text


def test_eval_holds_out_the_share_that_prune_did(place, capsys):
    words = ("prune", "senti", "--data", "reviews.csv", "--out", "small")
    more = ("--set", "dataset.held_out=0.5", "--set", "dataset.name=mine")
    text = carried_out(*words, *more, capsys=capsys)
    assert "examples of mine" in text
    assert "evaluated on 30 that were held out" in text
    again = carried_out("eval", "small", "--data", "reviews.csv", capsys=capsys)
    assert "examples: 30\n" in again
    assert value_of(again, "accuracy (%)")[0] == value_of(text, "accuracy (%)")[1]


@pytest.mark.parametrize("labels", [["up"], ["up", "down"], ["down", "down", "down"]])
def test_a_file_to_evaluate_needs_neither_many_rows_nor_all_classes(labels, place, capsys):
    rows = pd.DataFrame({"text": [f"w{i} w{3 * i}" for i in range(len(labels))], "label": labels})
    rows.to_csv("few.csv", index=False)
    text = carried_out("eval", "senti", "--data", "few.csv", capsys=capsys)
    assert f"examples: {len(labels)}\n" in text


def test_f1_of_a_file_without_all_classes_is_that_of_the_same_class(place, capsys):
    """Whatever the order of the model's outputs."""
    save_checkpoint(place / "other", "bert", id2label={0: "up", 1: "down"})
    (place / "up.csv").write_text("text,label\nw1 w2,up\nw3,up\nw25,up\nw7 w8,up\n")
    for model in ("senti", "other"):
        text = carried_out("eval", model, "--data", "up.csv", capsys=capsys)
        accuracy = float(value_of(text, "accuracy (%)")[0]) / 100
        f1 = 2 * accuracy / (1 + accuracy)
        assert "f1: class 1, up\n" in text
        assert float(value_of(text, "F1 (%)")[0]) == pytest.approx(100 * f1, abs=0.01)


@pytest.mark.parametrize("given", [None, 30])
def test_long_texts_are_told_and_the_tokenizer_is_saved_as_it_was(
    given, place, capsys, caplog, own_cache
):
    encoder = save_checkpoint(place / "encoder", "bert", head="Model")
    tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
    if given:
        tokenizer.enable_truncation(given)
        tokenizer.save(str(encoder / "tokenizer.json"))
    rows = [("w1 " * (6 + i), "up" if i % 2 else "down") for i in range(20 + (given or 0))]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv("long.csv", index=False)
    words = ("--data", "long.csv", "--set", "dataset.max_length=16", "--set", "finetune.epochs=1")
    for model in ("senti", "encoder"):  # the head of the second is trained before
        shutil.copy(encoder / "tokenizer.json", place / "senti")
        carried_out("prune", model, *words, "--out", f"{model}-small", capsys=capsys)
        saved = Tokenizer.from_file(f"{model}-small/tokenizer.json")
        assert (saved.truncation, saved.padding) == (tokenizer.truncation, tokenizer.padding)
    # Rows of more than 14 words, besides the special tokens; each part is told once.
    told = [m for m in caplog.messages if "are cut there" in m]
    counts = [re.match(r"dataset.max_length: (\d+) of (\d+) sentences have", m) for m in told]
    assert sum(int(one[2]) for one in counts) == len(rows)
    assert sum(int(one[1]) for one in counts) == len(rows) - 9
    assert (
        "choose a larger one to read more (stat-repro prune or eval: --set dataset.max_" in told[0]
    )


def test_a_half_precision_checkpoint_stays_one(place, capsys):
    """Computed in float32; what is measured are the weights that are saved."""
    model = pico_model("bert", vocab_size=40_000, **NAMES)  # sizes are shown as 0.1 MB
    model.bfloat16().save_pretrained(place / "senti")
    words = ("prune", "senti", "--data", "reviews.csv", "--ratio", "0.3", "--out")
    texts = [carried_out(*words, "small", *more, capsys=capsys) for more in (["--dry-run"], [])]
    pruned = texts[1]
    assert "weights saved in bfloat16" in pruned
    weights = load_file(place / "small/model.safetensors")
    assert {one.dtype for one in weights.values()} == {torch.bfloat16}
    sizes = [sum(w.nbytes for w in load_file(f).values()) for f in WEIGHTS]
    record = json.loads((place / "small/record.json").read_text())
    assert [record["costs"]["size_bytes"][which] for which in ("dense", "pruned")] == sizes
    both = carried_out("eval", "small", *words[2:4], "--dense", "senti", capsys=capsys)
    for text in (*texts, both):
        shown = [float(number) for number in value_of(text, "size on disk, MB")[:2]]
        assert shown == [round(size / 1e6, 1) for size in sizes]
    for name in ("KL from dense", "accuracy (%)"):
        assert value_of(pruned, name) == value_of(both, name)
    carried_out(*words, "wide", "--dtype", "float32", capsys=capsys)
    assert (place / "wide/model.safetensors").stat().st_size > 1.9 * sizes[1]
    assert "save_dtype=bfloat16" in carried_out("show", "small", capsys=capsys)


WEIGHTS = ("senti/model.safetensors", "small/model.safetensors")
WORDS = ("--data", "reviews.csv", "--out", "small")


def test_values_are_read_as_those_of_a_run(place):
    config = config_of("prune", "senti", *WORDS, "--set", "model.labels=[no,yes]")
    assert config.model.labels == ["no", "yes"]
    config = config_of("prune", "senti", *WORDS, "--set", "dataset.label_column='Größe, in m'")
    assert config.dataset.label_column == "Größe, in m"


@pytest.mark.parametrize(
    ("item", "choice"),
    [
        ("ratio=0.3", "choose its option"),
        ("model.path=other", "choose MODEL"),
        ("dataset.train=other.csv", "choose --data"),
        ("save_to=there", "choose --out"),
    ],
)
def test_what_the_command_decides_is_refused_with_the_way(item, choice, place):
    with pytest.raises(ConfigError, match=rf"expected a key that nothing else .*; {choice}$"):
        config_of("prune", "senti", *WORDS, "--ratio", "0.4", "--set", item)


def test_eval_takes_the_share_from_the_record(place):
    words = ("eval", "senti", "--data", "reviews.csv", "--set", "dataset.held_out=0.5")
    with pytest.raises(ConfigError, match="eval holds out what prune did"):
        config_of(*words)


@pytest.mark.parametrize("item", ["ratio=0.3,0.4", "+ratio=0.3", "ratio", "ratio=(", "~ratio"])
def test_what_is_no_single_value_is_refused(item, place):
    with pytest.raises(ConfigError, match=r"expected a key of the configuration .*; got: \S+"):
        config_of("prune", "senti", *WORDS, "--set", item)
