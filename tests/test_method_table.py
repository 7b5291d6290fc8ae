"""The table of methods agrees with the functions, the files and the looks that go with it."""

from pathlib import Path

from omegaconf import OmegaConf

from stat_repro.config import METHOD_DEFAULTS, METHODS
from stat_repro.methods.registry import PRUNE

PRUNING = Path(__file__).resolve().parents[1] / "conf" / "pruning"


def test_every_method_has_a_function_and_a_file():
    assert list(PRUNE) == list(METHODS) == list(METHOD_DEFAULTS)
    files = {path.stem: OmegaConf.load(path) for path in PRUNING.glob("*.yaml")}
    assert set(METHODS) <= set(files)
    # What is not called as its method is a variant of one that is listed.
    assert {file.get("method", "stat") for file in files.values()} <= set(METHODS)
    for name, method in METHODS.items():
        given = {key: files[name][key] for key in method.defaults}
        assert (files[name].method, given) == (name, dict(method.defaults))


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
