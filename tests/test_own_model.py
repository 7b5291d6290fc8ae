"""`stat-repro prune` and `eval`, on tiny models and files."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from pico_models import pico_model
from pico_project import save_checkpoint, write_table, write_text
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from stat_repro.allocation.costs import prunable_costs
from stat_repro.config import METHOD_DEFAULTS, ConfigError, PruningConfig, RunConfig
from stat_repro.models.adapter import adapter_for
from stat_repro.run import commands, dry_run
from stat_repro.run.own_model import run_config

ROOT = Path(__file__).resolve().parents[1]
NAMES = {"id2label": {0: "down", 1: "up"}, "label2id": {"down": 0, "up": 1}}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with models and data of somebody who knows nothing of Hydra."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "my model", "bert", **NAMES)
    save_checkpoint(tmp_path / "llama", "llama_grouped")
    write_table(tmp_path / "reviews.csv", 60)
    write_text(tmp_path / "prose.txt", 900)
    return tmp_path


def carried_out(*words, capsys):
    status = commands.main(words)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out


def lines_to_load(text):
    return "\n".join(line.strip() for line in text.split("Load it:")[1].splitlines())


def test_a_classifier_and_its_table(place, capsys):
    words = ("my model", "--data", "reviews.csv", "--ratio", "0.4", "--out", "small")
    text = carried_out("prune", *words, "--examples", "40", capsys=capsys)
    for part in ("parameters", "MACs per token", "size on disk", "accuracy (%)", "KL from dense"):
        assert part in text
    assert "calibrated on 40 examples of reviews" in text
    assert "evaluated on 12 that were held out" in text
    names = {}
    exec(lines_to_load(text), names)
    assert names["model"].num_parameters() < pico_model("bert").num_parameters()
    record = json.loads((place / "small" / "record.json").read_text())
    assert record["ratio"] == 0.4
    assert record["config"]["dataset"]["train"].startswith("reviews.csv@")
    for path in (place / "small").iterdir():
        assert str(place).encode() not in path.read_bytes(), path.name
    assert "accuracy (%)" in carried_out("show", "small", capsys=capsys)
    assert sorted(path.name for path in place.iterdir()) == [
        "llama", "my model", "prose.txt", "reviews.csv", "small",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["distill", "finetune"])
def test_a_model_is_healed_after_pruning(kind, place, capsys):
    words = ("prune", "my model", "--data", "reviews.csv", "--examples", "40", "--ratio", "0.4")
    carried_out(*words, "--out", "plain", capsys=capsys)
    heal = ("--heal", kind, "--set", "recovery.steps=3", "--out", "healed")
    text = carried_out(*words, *heal, capsys=capsys)
    assert f"then trained ({kind}) for 3 steps on " in text
    plain, healed = (
        json.loads((place / name / "record.json").read_text()) for name in ("plain", "healed")
    )
    assert healed["plan"]["layers"] == plain["plan"]["layers"]
    before, after = plain["metrics"]["fidelity"]["kl"], healed["metrics"]["fidelity"]["kl"]
    assert healed["metrics"]["before_recovery"]["kl"] == before != after
    (line,) = (line for line in text.splitlines() if line.startswith("KL from dense"))
    assert line.split()[-3:] == [f"{before:.4f}", f"{after:.4f}", "-"]
    assert (
        f"It was trained after that (recovery `{kind}`)" in (place / "healed/README.md").read_text()
    )


def test_eval_takes_what_did_not_calibrate(place, capsys):
    words = ("prune", "my model", "--data", "reviews.csv", "--examples", "40", "--out", "small")
    pruned = carried_out(*words, "--ratio", "0.4", capsys=capsys)
    again = carried_out("eval", "small", "--data", "reviews.csv", capsys=capsys)
    assert "examples: 12\n" in again
    assert "held_out: " in again
    both = carried_out(
        "eval", "small", "--data", "reviews.csv", "--dense", "my model", capsys=capsys
    )
    for name in ("accuracy (%)", "KL from dense", "parameters"):
        (line,) = (line for line in pruned.splitlines() if line.startswith(name))
        assert line.split() in [other.split() for other in both.splitlines()]
    shutil.copy(write_table(place / "other.csv", 31, seed=5), place / "copy.csv")
    other = carried_out("eval", "small", "--data", "copy.csv", capsys=capsys)
    assert "examples: 31\n" in other
    assert "held_out: " not in other
    assert "KL" not in other


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            ["down"],
            r"two classes, or one of the model's: LABEL_0, .*--set 'model.labels=\[<output 0>,",
        ),
        (["down", "up"], r"named as its labels are: .*--set 'model.labels=\[<output 0>,"),
    ],
)
def test_eval_says_how_outputs_get_the_names_of_a_file(labels, says, place, capsys):
    save_checkpoint(place / "unnamed", "bert", num_labels=3)
    rows = ["text,label", *(f"w{i},{labels[i % len(labels)]}" for i in range(10))]
    (place / "some.csv").write_text("\n".join(rows), encoding="utf-8")
    words = ("eval", "unnamed", "--data", "some.csv")
    assert commands.main(words) == 1
    assert re.search(says, capsys.readouterr().err)
    named = carried_out(*words, "--set", "model.labels=[up,down,level]", capsys=capsys)
    assert "examples: 10\n" in named


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_a_decoder_and_text_in_any_form(place, ending, capsys):
    file = place / f"text.{ending}"
    words = (place / "prose.txt").read_text().split()
    rows = pd.DataFrame({"body": [" ".join(words[i : i + 30]) for i in range(0, 900, 30)]})
    if ending == "txt":
        file.write_text("\n".join(rows["body"]))
    elif ending == "jsonl":
        rows.to_json(file, orient="records", lines=True)
    elif ending == "parquet":
        rows.to_parquet(file)
    else:
        rows.to_csv(file, index=False, sep="\t" if ending == "tsv" else ",")
    options = ("--text-column", "body", "--set", "dataset.window=16", "--examples", "20")
    words = ("llama", "--data", str(file), *options)
    text = carried_out("prune", *words, "--out", "small", "--ratio", "0.3", capsys=capsys)
    assert "token perplexity" in text
    (perplexity,) = re.findall(r"token perplexity +([\d.]+) +([\d.]+)", text)
    model = AutoModelForCausalLM.from_pretrained(place / "small")
    assert model.num_parameters() < pico_model("llama_grouped").num_parameters()
    again = carried_out("eval", "small", *words[1:-2], capsys=capsys)
    assert re.search(rf"token perplexity +{perplexity[1]}$", again, flags=re.MULTILINE)
    assert '\njoin: "\\n"\n' in again  # a line end, where it can be seen


def test_defaults_adapt_to_small_files_and_short_models(place, capsys, caplog):
    """64 positions, 900 words: no window of 512 tokens, and no 128 of them."""
    write_text(place / "short.txt", 150)
    text = carried_out("prune", "llama", "--data", "short.txt", "--out", "small", capsys=capsys)
    assert re.search(r"calibrated on \d examples", text)
    assert "dataset.window: 64, the model's positions, instead of 512" in caplog.text
    told = re.search(r"dataset.window: (\d+), the tokens of the shorter of", caplog.text)
    assert 2 <= int(told[1]) < 64
    assert "all there are, instead of the default 128" in caplog.text


def test_a_dry_run_counts_and_writes_nothing(place, capsys, monkeypatch):
    words = ("--ratio", "0.4", "--out", "small")
    for model, data in (("my model", "reviews.csv"), ("llama", "prose.txt")):
        text = carried_out("prune", model, "--data", data, *words, "--dry-run", capsys=capsys)
        for part in ("Counted, not measured", "prunable MACs", "memory: ", "time: about"):
            assert part in text
        done = carried_out("prune", model, "--data", data, *words, capsys=capsys)
        for first in ("prunable MACs", "parameters"):
            lines = [
                next(line.split() for line in out.splitlines() if line.startswith(first))
                for out in (text, done)
            ]
            assert lines[0][:-2] == lines[1][:-2]  # the dense model, exactly
            shares = [float(line[-1].rstrip("%")) for line in lines]
            assert shares[0] == pytest.approx(shares[1], abs=5)
        (tokens,) = re.findall(r"calibration: \d+ examples of \w+, ([\d,]+) tokens", text)
        assert f"with {tokens} tokens" in done
        shutil.rmtree(place / "small")
    healed = (*words, "--heal", "distill", "--set", "recovery.steps=7", "--dry-run")
    text = carried_out("prune", model, "--data", data, *healed, capsys=capsys)
    assert "loading, 7 steps of training and evaluation come on top" in text


def test_a_dry_run_has_the_head_that_would_be_trained(place, capsys, caplog):
    save_checkpoint(place / "encoder", "bert", head="Model")
    frame = pd.read_csv(place / "reviews.csv")
    frame.assign(label=frame.index / 10).to_csv(place / "scores.csv", index=False)
    words = ("prune", "encoder", "--examples", "20", "--out", "small", "--dry-run", "--data")
    text = carried_out(*words, "reviews.csv", capsys=capsys)
    number = carried_out(*words, "scores.csv", "--set", "dataset.task=regression", capsys=capsys)
    # One output less: its weights and its bias.
    two, one = (re.search(r"parameters +([\d,]+)", out)[1] for out in (text, number))
    width = pico_model("bert").config.hidden_size
    assert int(two.replace(",", "")) - int(one.replace(",", "")) == width + 1
    assert "taken in this order" not in caplog.text


def test_the_work_is_that_of_the_formulas_of_the_document():
    """docs/scaling.md: passes and sums grow with the tokens, pivots and folds do not."""
    adapter = adapter_for(pico_model("llama_grouped"))
    plan = dry_run.equal_shares(adapter, RunConfig(ratio=0.5), 16.0)
    passes, float64 = dry_run.operations(adapter, plan, 16.0, 1000)
    twice, more = dry_run.operations(adapter, plan, 16.0, 2000)
    assert twice == pytest.approx(2 * passes)
    assert passes == pytest.approx(
        sum(
            2 * 1000 * site.unit_macs(16.0) * (site.units + kept)
            for site in adapter.sites
            for kept in [site.units if site.kind == "attention" else plan.neuron_counts[site.layer]]
        )
    )
    sums = sum((2 - (s.kind == "ffn")) * s.columns**2 for s in adapter.sites)
    assert more - float64 == pytest.approx(1000 * sums)


@pytest.mark.parametrize(
    ("method", "ratio", "rounding", "options"),
    [
        ("stat", 0.2, 1, {"kinds": "ffn"}),
        ("stat", 0.5, 1, {"kinds": "attention"}),
        ("stat", 0.3, 8, {}),
        ("shortgpt", 1 / 3, 1, {}),
    ],
)
def test_a_dry_run_counts_the_pruning_that_is_asked_for(method, ratio, rounding, options):
    adapter = adapter_for(pico_model("bert"))
    pruning = PruningConfig(method=method, **METHOD_DEFAULTS[method], **options)
    config = RunConfig(ratio=ratio, round_to=rounding, pruning=pruning)
    plan = dry_run.equal_shares(adapter, config, 16.0)
    left = prunable_costs(adapter, 16.0, plan).macs / prunable_costs(adapter, 16.0).macs
    assert left == pytest.approx(1 - ratio, abs=0.1)
    kept = [(len(one.kept_heads), len(one.kept_neurons)) for one in plan.layers]
    whole = [(one.heads, one.neurons) for one in plan.layers]
    for (heads, neurons), (all_heads, all_neurons) in zip(kept, whole, strict=True):
        assert heads == all_heads or options.get("kinds") != "ffn"
        assert neurons == all_neurons or options.get("kinds") != "attention"
        assert neurons in (all_neurons, 0) or neurons % rounding == 0
    assert kept.count((0, 0)) == (method == "shortgpt")


def test_a_head_that_is_not_there_is_trained_and_that_is_told(place, capsys, own_cache):
    save_checkpoint(place / "encoder", "bert", head="Model")
    words = ("--data", "reviews.csv", "--out", "small", "--set", "finetune.epochs=1")
    text = carried_out("prune", "encoder", *words, capsys=capsys)
    assert text.startswith("encoder has no head for classification: one is trained")
    assert AutoModelForSequenceClassification.from_pretrained(place / "small").num_labels == 2


@pytest.mark.parametrize("item", ["dataset", "dataset=3", "recovery=lora", "=3", "gone.key=1"])
def test_what_is_set_has_to_be_a_key_with_a_value(item, place):
    words = ("prune", "my model", "--data", "reviews.csv", "--out", "small", "--set", item)
    message = r"expected a key of the configuration and a value of its kind, .*; \S+"
    with pytest.raises(ConfigError, match=message):
        run_config(options_of(*words))


def test_numbers_as_labels_make_a_regression(place, capsys):
    save_checkpoint(place / "scorer", "bert", num_labels=1)
    rows = [(f"w{i % 30} w{i % 7}", i / 10) for i in range(50)]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(
        place / "scores.tsv", sep="\t", index=False
    )
    words = ("prune", "scorer", "--data", "scores.tsv", "--out", "small", "--ratio", "0.3")
    assert "Pearson correlation" in carried_out(*words, capsys=capsys)


def test_a_file_to_evaluate_on(place, capsys):
    write_table(place / "test.csv", 17, seed=3)
    words = ("prune", "my model", "--data", "reviews.csv", "--test", "test.csv", "--out", "small")
    assert "evaluated on 17\n" in carried_out(*words, "--method", "flap", capsys=capsys)


def options_of(*words):
    return commands.parser().parse_args(words)


def test_names_of_packaged_models_and_data_sets_are_taken_too():
    config = run_config(options_of("prune", "minilm", "--data", "movie_reviews", "--out", "x"))
    assert config.model.path == "asset:minilm"
    assert config.dataset.source == "asset:movie_reviews"


def test_the_commands_of_the_pages_run(place, capsys):
    """Those of README and docs/prune.md, from top to bottom."""
    save_checkpoint(place / "my-model", "bert", **NAMES)
    shutil.copytree(place / "llama", place / "my-llama")
    write_table(place / "test.csv", 20, seed=4)
    pages = [(ROOT / name).read_text() for name in ("README.md", "docs/prune.md")]
    lines = re.findall(r"^stat-repro ((?:prune|eval) .*)$", "\n".join(pages), flags=re.MULTILINE)
    lines.sort(key=lambda line: "--dry-run" not in line)  # its folder must be new
    assert len(lines) == 6
    for line in lines:
        assert carried_out(*shlex.split(line, comments=True), capsys=capsys)
    for name in ("my-model-half", "my-model-40", "my-llama-20"):
        assert (place / name / "README.md").is_file()
