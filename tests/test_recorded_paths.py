"""Records may be passed on: they do not show where they were made."""

import traceback
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pico_project import save_checkpoint

from stat_repro.config import DatasetConfig, ModelConfig, RunConfig
from stat_repro.paths import text_without_paths, without_paths
from stat_repro.results.record import describe_error
from stat_repro.run import commands
from stat_repro.run.identity import identify, recorded
from stat_repro.run.own_model import run_config

HASH = "0123456789abcdef" * 4


def config_of(folder, **changes):
    data = DatasetConfig(
        name="toy", source="table_file", train=f"{folder}/train.csv", test=f"{folder}/test.csv"
    )
    return RunConfig(
        **{"model": ModelConfig(name="pico", path=f"{folder}/bert"), "dataset": data} | changes
    )


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name},1\n")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    return tmp_path


def test_absolute_paths_are_cut_to_their_name_and_the_hash_of_their_content(folder):
    config = config_of(folder, save_to=str(folder / "models"), results="~/results")
    kept = recorded(config, HASH)
    assert kept["model"]["path"] == "bert@0123456789"
    assert kept["dataset"]["train"].startswith("train.csv@")
    assert (kept["save_to"], kept["results"]) == ("models", "results")
    assert str(folder) not in str(kept)
    assert kept["dataset"] | {"train": "", "test": ""} == asdict(config)["dataset"] | {
        "train": "", "test": "",
    }  # fmt: skip


def test_files_of_one_name_and_other_content_stay_apart(folder, tmp_path):
    first = recorded(config_of(folder), HASH)
    assert recorded(config_of(folder), HASH) == first
    (folder / "train.csv").write_text("text,label\nother,0\n")
    second = recorded(config_of(folder), HASH)
    assert first["dataset"]["test"] == second["dataset"]["test"]
    assert first["dataset"]["train"] != second["dataset"]["train"]
    assert recorded(config_of(folder), HASH[::-1])["model"] != first["model"]


def test_text_that_is_read_in_another_way_is_another_run(tmp_path):
    names = ("wiki.test.raw", "ptb.test.txt", "mine.txt", "other.txt", "mine.jsonl")
    for name in names:
        (tmp_path / name).write_text('{"text": "a"}\n')
    data = DatasetConfig(task="language_modeling", source="text")
    runs = [
        identify(RunConfig(model=ModelConfig(path="m"), dataset=replace(data, test=str(path))))
        for path in map(tmp_path.joinpath, names)
    ]
    assert runs[2] == runs[3]
    assert len(set(runs)) == 3


def test_names_of_assets_and_of_the_hub_stay(folder):
    for path in ("asset:minilm", "owner/name", "../gone/bert"):
        model = ModelConfig(name="x", path=path)
        data = DatasetConfig(source="glue:sst2", path=path, train="gone.csv")
        config = config_of(folder, model=model, dataset=data)
        assert recorded(config, HASH) == asdict(config)


def test_a_relative_path_says_what_an_absolute_one_says(monkeypatch, folder):
    """Otherwise two files that had one name after each other would be one variant of a table."""
    monkeypatch.chdir(folder / "bert")
    assert recorded(config_of(".."), HASH) == recorded(config_of(folder), HASH)
    monkeypatch.chdir(folder)
    assert recorded(config_of("."), HASH) == recorded(config_of(folder), HASH)


def test_a_folder_has_its_name_also_where_one_works_in_it(monkeypatch, folder):
    file = folder / r"a\b.csv"
    file.write_text("text,label\n")
    names = {}
    for place, path in ((folder / "bert", "."), (folder / "bert", "./"), (folder / "bert/x", "..")):
        place.mkdir(exist_ok=True)
        monkeypatch.chdir(place)
        kept = recorded(config_of(folder, model=ModelConfig(name="pico", path=path)), HASH)
        names[path] = kept["model"]["path"]
    assert set(names.values()) == {"bert@0123456789"}
    data = DatasetConfig(name="toy", source="table", train=str(file))
    assert recorded(config_of(folder, dataset=data), HASH)["dataset"]["train"].startswith(
        r"a\b.csv@"
    )


def test_models_and_files_of_any_name_are_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(save_checkpoint(tmp_path / "my model", "bert"))
    names = []
    for data in ("отзывы.csv", "новости.csv", "données.csv", "a b.csv"):
        Path(data).touch()
        config = run_config(commands.parser().parse_args(["eval", ".", "--data", data]))
        names.append(config.dataset.name)
    assert names[2:] == ["xn--donnes-eva", "a-b"]
    assert len(set(names)) == 4
    assert config.model.name == "my-model"


def test_the_run_id_is_that_of_the_content_as_before(folder, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    for name in ("train.csv", "test.csv"):
        (other / name).write_bytes((folder / name).read_bytes())
    same = replace(config_of(folder).model, path="x")
    assert identify(config_of(folder, model=same)) == identify(config_of(other, model=same))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.path=/home/me/bert: got no folder", "model.path=bert: got no folder"),
        ("(working folder /work/abc)", "(working folder abc)"),
        ("'/data/x/train.csv' and ~/y/test.csv", "'train.csv' and test.csv"),
        ("see https://host/a/b, 1/2, and/or a/b.txt", "see https://host/a/b, 1/2, and/or a/b.txt"),
        (f"{Path.home()}/my models/x", "my models/x"),
    ],
)
def test_paths_inside_a_message(text, expected):
    assert text_without_paths(text) == expected


def test_a_user_without_a_home_folder_is_told_what_failed(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert describe_error(ValueError("/data/x/y.csv broke"))["message"] == "y.csv broke"


def test_the_error_of_a_failed_run(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "deep" / "file.txt").read_text()
    assert str(tmp_path) in "".join(traceback.format_exception(caught.value))
    told = describe_error(caught.value)
    assert str(tmp_path.parent) not in str(told)
    assert str(Path(__file__).parent) not in str(told)
    assert "No such file or directory: 'file.txt'" in told["message"]
    assert "test_recorded_paths.py" in told["traceback"]


def test_paths_in_nested_values():
    value = {"a": ["/x/y.txt", {"b": "~/z", "c": 1.5}], "d": "C:\\data\\t.csv", "e": None}
    assert without_paths(value) == {"a": ["y.txt", {"b": "z", "c": 1.5}], "d": "t.csv", "e": None}
    assert without_paths({"join": "/"}) == {"join": "/"}
