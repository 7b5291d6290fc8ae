"""The table of methods agrees with the functions, the files and the looks that go with it."""

import shutil

import pico_config
import pytest
import torch
from omegaconf import OmegaConf
from pico_project import sentence_overrides
from pico_runs import compose_here, run_one

from stat_repro import results
from stat_repro.api import pruning_config
from stat_repro.config import METHOD_DEFAULTS, METHODS, ConfigError
from stat_repro.config.methods import PRESETS, Method, Paper
from stat_repro.methods.common import scores_by_site
from stat_repro.methods.ranked import by_scores
from stat_repro.methods.registry import PRUNE
from stat_repro.plan import PruningPlan
from stat_repro.reporting import styles
from stat_repro.reporting.tables import summary_table

PRUNING = pico_config.CONF / "pruning"


def test_every_method_has_a_function_and_a_file():
    assert list(PRUNE) == list(METHODS) == list(METHOD_DEFAULTS)
    files = {path.stem: OmegaConf.load(path) for path in PRUNING.glob("*.yaml")}
    assert set(METHODS) <= set(files)
    # What is not called as its method is a variant of one that is listed.
    assert {file.get("method", "stat") for file in files.values()} <= set(METHODS)
    for name, method in METHODS.items():
        given = {key: files[name][key] for key in method.defaults}
        assert (files[name].method, given) == (name, dict(method.defaults))


def test_names_of_the_command_line_that_are_no_methods_say_what_to_choose():
    files = {path.stem: OmegaConf.load(path) for path in PRUNING.glob("*.yaml")}
    assert set(PRESETS) == set(files) - set(METHODS)
    for name, words in PRESETS.items():
        given = {key: value for key, value in files[name].items() if key != "defaults"}
        method, _, rest = words.partition(" with ")
        option, _, value = rest.partition("=")
        assert str(given[option]).lower() == value
        method = method.removeprefix("method=")
        assert method in files[name].defaults
        assert vars(pruning_config(method, {option: given[option]})) == vars(
            pruning_config(method, given)
        )
        with pytest.raises(
            ConfigError, match=rf"^pruning.method: .*got '{name}'.*; choose {words}"
        ):
            pruning_config(name, {})


def test_labels_colours_and_markers_tell_methods_apart():
    for values in zip(*((m.label, m.colour, m.marker) for m in METHODS.values()), strict=True):
        assert len(set(values)) == len(METHODS)


def test_papers_are_named_by_their_number():
    """In the header of the file, too, which is what a user of the command line reads."""
    for name, method in METHODS.items():
        text = (PRUNING / f"{name}.yaml").read_text(encoding="utf-8")
        for paper in method.papers:
            assert paper.arxiv in text
            assert f"{paper.authors} {paper.year}" in text.replace("\n# ", " ")


def first_units(request):
    """A made-up criterion: the earlier unit is the better one."""
    return scores_by_site(request.adapter, lambda site: -torch.arange(site.units).double())


def test_a_further_baseline_is_an_entry_a_score_function_and_a_file(tmp_path, monkeypatch):
    shutil.copytree(pico_config.CONF, tmp_path / "conf")
    monkeypatch.setattr(pico_config, "CONF", tmp_path / "conf")

    paper = Paper("Nobody et al.", 2026, "0000.00000")
    options = {"allocation": "uniform", "correction": "bias"}
    entry = Method("first", "First come", "first units", (paper,), "#123456", "+", options)
    monkeypatch.setitem(METHODS, "first", entry)
    monkeypatch.setitem(PRUNE, "first", by_scores(first_units))
    lines = [
        "defaults: [stat, _self_]",
        "method: first",
        *(f"{k}: {v}" for k, v in options.items()),
    ]
    (tmp_path / "conf" / "pruning" / "first.yaml").write_text("\n".join(lines), encoding="utf-8")

    overrides = sentence_overrides(tmp_path / "pico")
    records = [run_one(compose_here(overrides, f"pruning={name}")) for name in ("first", "flap")]
    assert records[0].method == records[0].plan["method"] == "first"
    for layer in PruningPlan.from_dict(records[0].plan).layers:
        assert layer.kept_neurons == tuple(range(len(layer.kept_neurons)))
    frame = results.to_frame(records)
    assert set(summary_table(frame)["variant"]) == {"First come", "FLAP"}
    look = styles.variant_style("first", "uniform", "bias", False, ())
    assert (look.colour, look.marker, look.line) == ("#123456", "+", "-")
