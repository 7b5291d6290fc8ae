"""The README is true: its code runs, its options exist, its numbers are those of the records."""

import math
import os
import re
from pathlib import Path

import pytest
from pico_data import WORDS
from pico_project import save_checkpoint

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_code_prunes_saves_and_loads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "my-model", "bert")
    names = {
        "chunks_of_sentences": [
            [" ".join(WORDS[i : i + 6]) for i in range(k, k + 8)] for k in range(4)
        ]
    }
    prune, load = python_blocks()
    assert sum(bool(line.strip()) for line in prune.splitlines()) < 10
    exec(prune, names)
    dense, pruned = names["model"], names["result"].model
    assert pruned.num_parameters() < dense.num_parameters()
    names = {}
    exec(load, names)
    assert type(names["model"]) is type(pruned)
    assert names["model"].num_parameters() == pruned.num_parameters()


def test_listed_options_are_those_of_the_groups():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, flags=re.MULTILINE)
    groups = {group: re.sub(r"\([^)]*\)", "", text) for group, text in rows}
    for folder in sorted((ROOT / "conf").iterdir()):
        if folder.is_dir():
            listed = set(re.findall(r"`(\w+)`", groups[folder.name]))
            assert listed == {path.stem for path in folder.glob("*.yaml")}, folder.name


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def table_row(label):
    (row,) = re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", README, flags=re.MULTILINE)
    return [float(cell) for cell in row.split("|")]


ACCURACY, AGREEMENT = "metrics.pruned.accuracy", "metrics.fidelity.agreement"
PERPLEXITY = "metrics.pruned.perplexity"
COMPAT, FLOOR = "config.pruning.authors_compat", "config.pruning.min_units"
ALLOCATION = "config.pruning.allocation"
UNIFORM = {ALLOCATION: "uniform"}
MINILM, DISTIL = "movie_reviews_minilm", "movie_reviews_distilminilm"
METHODS_MINILM, METHOD, KL = "methods_minilm", "method", "metrics.fidelity.kl"
CURVATURE = "config.pruning.curvature"
PLUS = {METHOD: "stat_plus", CURVATURE: "none"}
WEIGHTED = {METHOD: "stat_plus", CURVATURE: "fisher"}
SMOLLM2 = "methods_smollm2"
SST2, CURVED = "methods_sst2_minilm", "curvature_minilm"
EDITORIALS = "methods_smollm2_editorials"
NYT = "nyt_editorials_smollm2"
SQUAD, WIKITEXT = "squad_dev_minilm", "wikitext2_smollm2"
EXACT, F1 = "metrics.pruned.exact_match", "metrics.pruned.f1"


@pytest.mark.parametrize(
    ("label", "study", "chosen", "column", "scale", "digits"),
    [
        ("test accuracy, STAT", MINILM, {COMPAT: False}, ACCURACY, 100, 2),
        ("test accuracy, the authors' script repeated", MINILM, {COMPAT: True}, ACCURACY, 100, 2),
        ("agreement with the dense model, STAT", MINILM, {COMPAT: False}, AGREEMENT, 100, 2),
        ("test accuracy, DistilBERT form", DISTIL, {}, ACCURACY, 100, 2),
        ("KL to the dense model, STAT", METHODS_MINILM, {METHOD: "stat"}, KL, 1, 4),
        ("KL to the dense model, stat_plus", METHODS_MINILM, PLUS, KL, 1, 4),
        ("KL to the dense model, FLAP", METHODS_MINILM, {METHOD: "flap"}, KL, 1, 4),
        (
            "KL to the dense model, Fisher mask with tuning (labels, gradients)",
            METHODS_MINILM,
            {METHOD: "fisher"},
            KL,
            1,
            4,
        ),
        ("KL to the dense model, Wanda-sp", METHODS_MINILM, {METHOD: "wanda_sp"}, KL, 1, 4),
        ("KL to the dense model, magnitude", METHODS_MINILM, {METHOD: "magnitude"}, KL, 1, 4),
        ("KL to the dense model, random", METHODS_MINILM, {METHOD: "random"}, KL, 1, 4),
        ("accuracy beside other methods, STAT", METHODS_MINILM, {METHOD: "stat"}, ACCURACY, 100, 2),
        (
            "accuracy beside other methods, stat_plus",
            METHODS_MINILM,
            PLUS,
            ACCURACY,
            100,
            2,
        ),
        ("accuracy beside other methods, FLAP", METHODS_MINILM, {METHOD: "flap"}, ACCURACY, 100, 2),
        ("KL with and without gradients, STAT", CURVED, {METHOD: "stat"}, KL, 1, 5),
        ("KL with and without gradients, stat_plus", CURVED, PLUS, KL, 1, 5),
        ("KL with and without gradients, stat_plus_fisher", CURVED, WEIGHTED, KL, 1, 5),
        ("KL to the dense model on SST-2, STAT", SST2, {METHOD: "stat"}, KL, 1, 4),
        ("KL to the dense model on SST-2, stat_plus", SST2, PLUS, KL, 1, 4),
        ("KL to the dense model on SST-2, stat_plus_fisher", SST2, WEIGHTED, KL, 1, 4),
        ("KL to the dense model on SST-2, FLAP", SST2, {METHOD: "flap"}, KL, 1, 4),
        (
            "KL to the dense model on SST-2, Fisher mask with tuning",
            SST2,
            {METHOD: "fisher"},
            KL,
            1,
            4,
        ),
        ("KL to the dense model on SST-2, Wanda-sp", SST2, {METHOD: "wanda_sp"}, KL, 1, 4),
        ("WikiText-2 perplexity, STAT", WIKITEXT, {ALLOCATION: "global"}, PERPLEXITY, 1, 2),
        ("WikiText-2 perplexity, STAT, uniform sizes", WIKITEXT, UNIFORM, PERPLEXITY, 1, 2),
        (
            "WikiText-2 perplexity beside other methods, STAT",
            SMOLLM2,
            {METHOD: "stat", ALLOCATION: "global"},
            PERPLEXITY,
            1,
            2,
        ),
        (
            "WikiText-2 perplexity beside other methods, STAT, uniform sizes",
            SMOLLM2,
            {METHOD: "stat", **UNIFORM},
            PERPLEXITY,
            1,
            2,
        ),
        (
            "WikiText-2 perplexity beside other methods, stat_plus",
            SMOLLM2,
            PLUS,
            PERPLEXITY,
            1,
            2,
        ),
        (
            "WikiText-2 perplexity beside other methods, FLAP",
            SMOLLM2,
            {METHOD: "flap"},
            PERPLEXITY,
            1,
            2,
        ),
        (
            "WikiText-2 perplexity beside other methods, Wanda-sp",
            SMOLLM2,
            {METHOD: "wanda_sp"},
            PERPLEXITY,
            1,
            2,
        ),
        *(
            (f"editorials, the same models, {words}", EDITORIALS, chosen, PERPLEXITY, 1, 2)
            for words, chosen in (
                ("STAT", {METHOD: "stat", ALLOCATION: "global"}),
                ("STAT, uniform sizes", {METHOD: "stat", **UNIFORM}),
                ("stat_plus", PLUS),
                ("FLAP", {METHOD: "flap"}),
                ("Wanda-sp", {METHOD: "wanda_sp"}),
            )
        ),
        ("exact match, SQuAD development set", SQUAD, {}, EXACT, 100, 2),
        ("F1, SQuAD development set", SQUAD, {}, F1, 100, 2),
        ("perplexity, STAT", NYT, {FLOOR: 1, ALLOCATION: "global"}, PERPLEXITY, 1, 1),
        ("perplexity, STAT without a floor", NYT, {FLOOR: 0}, PERPLEXITY, 1, 1),
        ("perplexity, STAT, uniform sizes", NYT, UNIFORM, PERPLEXITY, 1, 1),
    ],
)
def test_numbers_are_those_of_the_records(label, study, chosen, column, scale, digits):
    from stat_repro.results.store import load_records, to_frame

    frame = to_frame(load_records(ROOT / "results", study))
    if CURVATURE not in frame:
        frame[CURVATURE] = None
    frame[CURVATURE] = frame[CURVATURE].fillna("none")  # records from before there was a choice
    for key, value in chosen.items():
        frame = frame[frame[key] == value]
    means = scale * frame.groupby("ratio")[column].mean()
    assert table_row(label) == [round(float(value), digits) for value in means]


@pytest.mark.parametrize(("words", "method"), [("STAT", "stat"), ("stat_plus", "stat_plus")])
def test_values_by_calibration_size_are_those_of_the_records(words, method):
    from stat_repro.results.store import load_records, to_frame

    frame = to_frame(load_records(ROOT / "results", "calibration_size_minilm"))
    means = frame[frame[METHOD] == method].groupby("config.calibration.examples")[KL].mean()
    expected = [round(float(value), 4) for value in means]
    assert table_row(f"KL by calibration sentences, {words}") == expected


@pytest.mark.parametrize(
    ("words", "study"),
    [("WikiText-2", "calibration_text_wikitext2"), ("editorials", "calibration_text_editorials")],
)
def test_values_by_calibration_text_are_those_of_the_records(words, study):
    from stat_repro.results.store import load_records

    found = {
        (r.config["dataset"]["calibration_corpus"], r.costs["calibration_tokens"]): r
        for r in load_records(ROOT / "results", study)
    }
    columns = [(c, n) for c in ("wikitext2", "nyt_editorials") for n in (16_384, 65_536)]
    assert table_row(f"perplexity by calibration text, {words}") == [
        round(found[column].metrics["pruned"]["perplexity"], 2) for column in columns
    ]


def test_values_of_calibration_on_the_same_kind_are_those_of_the_records():
    from stat_repro.results.store import load_records

    found = {r.method: r for r in load_records(ROOT / "results", "methods_smollm2_same_text")}
    assert table_row("perplexity on the editorials, same kind") == [
        round(found[method].metrics["pruned"]["perplexity"], 2)
        for method in ("stat", "stat_plus", "flap")
    ]


def test_the_window_that_fails_is_told_as_it_was_measured():
    from stat_repro.results.example_files import read_examples
    from stat_repro.results.store import load_records, read_record, to_frame

    (path,) = (
        path
        for path in (ROOT / "results" / SMOLLM2).glob("*-stat-r0.3-s0-*.json")
        if read_record(path).config["pruning"]["allocation"] == "global"
    )
    losses = sorted(read_examples(read_record(path), path)["nll"].tolist())
    others = math.exp(sum(losses[:-1]) / len(losses[:-1]))
    assert len(losses) == 20
    assert f"({losses[-1]:.2f} nats per token)" in README
    assert f"the other 19 have a perplexity of {others:.1f}." in " ".join(README.split())
    frame = to_frame(load_records(ROOT / "results", SMOLLM2))
    chosen = (frame[METHOD] == "stat") & (frame[ALLOCATION] == "global") & (frame["ratio"] == 0.3)
    others = frame[chosen & (frame["seed"] > 0)].sort_values("seed")[PERPLEXITY]
    first, second = (f"{value:.2f}" for value in others)
    words = " ".join(README.split())
    assert f"The two other calibration draws give {first} and {second}." in words
    (path,) = (
        path
        for path in (ROOT / "results" / EDITORIALS).glob("*-stat-r0.3-s1-*.json")
        if read_record(path).config["pruning"]["allocation"] == "uniform"
    )
    worst = float(read_examples(read_record(path), path)["nll"].max())
    assert f"({worst:.2f} nats per token at seed 1)" in words


def test_speedups_are_those_of_the_records():
    from stat_repro.results.store import load_records

    rows = {"speed-up, batch 1": [], "speed-up, batch 32": []}
    ideal = []
    records = [r for r in load_records(ROOT / "results", "cost_minilm") if r.costs["round_to"] == 1]
    for record in sorted(records, key=lambda r: r.ratio):
        for entry in record.costs["measured"]:
            rows[f"speed-up, batch {entry['batch_size']}"].append(entry["speedup"]["median"])
        macs = entry["macs_per_token"]
        ideal.append(macs["dense"] / macs["pruned"])
    rows["speed-up if time followed the MACs of the whole model"] = ideal
    for label, values in rows.items():
        assert table_row(label) == [round(value, 2) for value in values], label


def test_stored_tables_and_figures_are_those_of_the_records(tmp_path, monkeypatch):
    """Rebuilding gives the committed tables byte for byte (figures depend on font versions)."""
    import importlib.util

    monkeypatch.setitem(os.environ, "STAT_REPRO_LIGHT", "1")
    spec = importlib.util.spec_from_file_location("build", ROOT / "paper_figures" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    stored = ROOT / "paper_figures" / "out"
    sweeps = (ROOT / "experiments" / "sweep").glob("*.yaml")
    studies = sorted(path.stem for path in sweeps if (ROOT / "results" / path.stem).is_dir())
    assert studies
    assert build.main(["--study", *studies, "--out", str(tmp_path)]) == 0
    for study in studies:
        paired = [path.name for path in (stored / study).glob("table_comparison.*")]
        for name in ("table.md", "table.tex", "table.csv", *paired):
            assert (tmp_path / study / name).read_bytes() == (stored / study / name).read_bytes()
        built = {path.name for path in (tmp_path / study).iterdir()}
        assert {name for name in built if not name.endswith(".pdf")} == {
            path.name for path in (stored / study).iterdir() if path.suffix != ".pdf"
        }
        pictures = {name[:-4] for name in built if name.endswith(".png")}
        assert {name[:-4] for name in built if name.endswith(".pdf")} == pictures
