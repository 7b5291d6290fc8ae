"""The schema as the command line meets it: every group composes, everything else is refused."""

import json
import re
from dataclasses import asdict, replace

import pytest
from hydra.errors import HydraException
from local_contents import content_of
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pico_config import CONF, compose_run

from stat_repro import paths
from stat_repro.config import (
    METHOD_DEFAULTS,
    METHODS,
    ConfigError,
    DatasetConfig,
    ModelConfig,
    PruningConfig,
    RunConfig,
    defaults_noted,
    from_dict,
    from_hydra,
    result_config,
    run_id,
)


def options(group):
    return [(group, path.stem) for path in sorted((CONF / group).glob("*.yaml"))]


GROUPS = ("model", "dataset", "finetune", "pruning", "evaluation", "cost", "tracking", "launcher")
NEEDS = {
    ("evaluation", "zero_shot"): ["dataset=wikitext2"],
    ("model", "hf"): ["model.path=somewhere"],
    ("dataset", "table_file"): ["dataset.train=a.csv", "dataset.test=b.csv"],
    ("dataset", "text_file"): ["dataset.train=a.txt", "dataset.test=b.txt"],
}


@pytest.mark.parametrize(("group", "option"), [o for group in GROUPS for o in options(group)])
def test_every_option_of_every_group_composes(group, option):
    config = compose_run(f"{group}={option}", *NEEDS.get((group, option), []))
    if group != "launcher":
        assert asdict(config)[group]


def test_defaults():
    config = compose_run()
    assert (config.model.name, config.dataset.name) == ("minilm", "movie_reviews")
    assert config.pruning.method == "stat"
    assert config.pruning.min_units == 1
    assert config.tracking.mode == "offline"
    assert config.study == "local"
    assert config.calibration.examples == 512
    assert compose_run("dataset=nyt_editorials").calibration.examples == 128


@pytest.mark.parametrize(
    "override",
    ["rato=0.3", "+rato=0.3", "+pruning.rigde=1", "model=bert_tiny", "ratio=much", "+experiment=x"],
)
def test_unknown_keys_options_and_types_are_refused(override):
    key = override.strip("+").split("=")[0].split(".")[-1]
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException), match=key):
        compose_run(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ratio=1.0", "0 <= ratio < 1"),
        ("ratio=-0.1", "0 <= ratio < 1"),
        ("pruning.method=magic", "fisher, shortgpt; got 'magic'"),
        ("pruning.correction=magic", "lstsq, none, bias, affine, scale; got 'magic'"),
        ("pruning.ridge=-1", "at least 0"),
        ("pruning.allocation=local", "global, uniform, stat"),
        ("pruning.neuron_mac_share=1.5", "more than 0 and less than 1"),
        ("calibration.statistics=qr", "gram, exact, sketch"),
        ("calibration.sketch=gaussian", "expected calibration.statistics=sketch; got gram"),
        ("calibration.sketch_size=64", "expected calibration.statistics=sketch; got gram"),
        ("calibration.examples=0", "at least 1"),
        ("dtype=int8", "float32"),
        ("study=a/b", "it names files"),
        ("model.name=org/model", "it names files"),
        ("dataset.name=../x", "it names files"),
        ("tracking.mode=loud", "offline, online, disabled"),
        ("finetune.warmup_fraction=2", "at least 0 and at most 1"),
        ("if_stored=overwrite", "skip, repeat"),
    ],
)
def test_values_out_of_range_are_refused_with_the_valid_ones(override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose_run(override)


def test_authors_compat_refuses_what_the_script_cannot_do():
    assert compose_run("pruning=stat_authors").pruning.authors_compat
    with pytest.raises(ConfigError, match="allocation=global"):
        compose_run("pruning=stat_authors", "pruning.allocation=uniform")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pruning.allocation=stat"], "for method=stat they are allocation=global"),
        (["pruning=flap", "pruning.ridge=0.1"], "needs pruning.correction=lstsq, affine, scale"),
        (["pruning.correction=none", "pruning.ridge=0.1"], "got correction=none"),
        (
            ["pruning=random", "pruning.recipe=decoder"],
            "pruning.recipe=decoder is an option of stat",
        ),
        (["pruning=fisher", "pruning.balance_factor=1"], "expected method=stat or allocation=stat"),
        (["pruning=flap", "pruning.head_bonus=1"], "got method=flap, allocation=global"),
        (["pruning=flap", "pruning.authors_compat=true"], "only method=stat; got method=flap"),
        (["pruning=shortgpt", "pruning.correction=bias"], "only correction=none; got"),
        (["pruning=shortgpt", "pruning.allocation=uniform"], "only allocation=global; got"),
        (["pruning=shortgpt", "pruning.allocation=stat"], "only allocation=global; got"),
        (["pruning=shortgpt", "pruning.min_units=1"], "only min_units=0; got min_units=1"),
        (["pruning=shortgpt", "pruning.neuron_mac_share=0.5"], "only neuron_mac_share=None; got"),
        (
            ["pruning=flap", "calibration.statistics=sketch"],
            "sketch serves pruning.method=stat; got method=flap",
        ),
        (
            ["pruning.correction=affine", "calibration.statistics=sketch"],
            "sketch serves pruning.correction=lstsq, none; got correction=affine",
        ),
        (
            ["pruning=fisher", "dataset=squad"],
            "expected another dataset.task; got question_answering",
        ),
    ],
)
def test_combinations_without_a_meaning_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        compose_run(*overrides)


@pytest.mark.parametrize("method", METHODS)
def test_the_option_of_a_method_is_its_default_in_python(method):
    config = compose_run(f"pruning={method}").pruning
    assert config == PruningConfig(method=method, **METHOD_DEFAULTS[method])
    text = (CONF / "pruning" / f"{method}.yaml").read_text(encoding="utf-8")
    assert {"allocation", "correction"} <= set(re.findall(r"^(\w+):", text, flags=re.MULTILINE))


def test_options_of_stats_sizes_go_with_its_allocation():
    config = compose_run("pruning=flap", "pruning.allocation=stat", "pruning.recipe=decoder")
    assert config.pruning.recipe == "decoder"


def test_sketches():
    assert compose_run("calibration.statistics=sketch").calibration.sketch == "gaussian"
    base = ["calibration.statistics=sketch", "calibration.sketch=countsketch"]
    config = compose_run(*base, "calibration.sketch_size=64")
    assert config.calibration.sketch_size == 64
    names = {run_id(compose_run(*changes)) for changes in ([], base[:1], base)}
    assert len({*names, run_id(config)}) == 4
    assert run_id(compose_run(base[0], "calibration.sketch=gaussian")) in names
    with pytest.raises(ConfigError, match="gaussian, countsketch; got 'srht'"):
        compose_run(base[0], "calibration.sketch=srht")
    with pytest.raises(ConfigError, match=r"calibration\.sketch_size: .*at least 1; got 0"):
        compose_run(base[0], "calibration.sketch_size=0")


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match=r"model\.path=<value>"):
        compose_run("model=hf")


def test_run_id_follows_the_result_and_nothing_else():
    base = compose_run()
    for same in (
        "tracking=disabled",
        "study=other",
        "save_to=folder",
        "calibration.batch_size=7",
        "evaluation.batch_size=7",
        "if_stored=repeat",
    ):
        assert run_id(compose_run(same)) == run_id(base), same
    different = {
        run_id(compose_run(change))
        for change in (
            "ratio=0.3",
            "seed=1",
            "pruning.ridge=0.1",
            "pruning=stat_uniform",
            "dataset.max_length=64",
            "calibration.examples=256",
            "finetune=short",
            "evaluation=quick",
            "dtype=float64",
        )
    }
    assert len(different) == 9
    assert run_id(base) not in different
    assert run_id(base).startswith("minilm-movie_reviews-stat-r0.5-s0-")


def test_finetuning_does_not_identify_a_language_model_run():
    config = compose_run("model=smollm2", "dataset=nyt_editorials")
    assert "finetune" not in result_config(config)
    assert run_id(config) == run_id(
        compose_run("model=smollm2", "dataset=nyt_editorials", "finetune=short")
    )


def test_paths_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(paths.CACHE_VARIABLE, str(tmp_path / "here"))
    assert paths.cache_dir() == tmp_path / "here"
    monkeypatch.delenv(paths.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert paths.cache_dir() == tmp_path / "stat_repro"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user that only the container knows
    with pytest.raises(OSError, match=r"STAT_REPRO_CACHE: expected a folder .*; got none; choose"):
        paths.cache_dir()


def test_schema_rejects_by_construction():
    with pytest.raises(ConfigError, match="seed"):
        replace(RunConfig(), seed=-1)


# Content of the benchmark files that stored runs read, as `identify` names it in their ids.
def test_numbers_are_rounded_on_entry_so_that_a_range_names_the_same_runs():
    steps = [compose_run(f"ratio={0.1 + 0.1 * k}") for k in range(3)]
    assert [config.ratio for config in steps] == [0.1, 0.2, 0.3]
    assert [run_id(config) for config in steps] == [
        run_id(compose_run(f"ratio={ratio}")) for ratio in (0.1, 0.2, 0.3)
    ]
    small = compose_run(f"pruning.ridge={3 * 1e-12}", "finetune.learning_rate=5e-5")
    assert (small.pruning.ridge, small.finetune.learning_rate) == (3e-12, 5e-5)
    with pytest.raises(ConfigError, match="0 <= ratio < 1"):
        compose_run("ratio=0.99999999999")


def test_a_stored_configuration_is_read_as_it_ran():
    config = RunConfig(model=ModelConfig("m", "asset:m"), dataset=DatasetConfig("d", "regression"))
    data = asdict(config)
    assert from_dict(data) == config
    data["ratio"] = 0.1 + 0.2  # of a version that did not round
    del data["round_to"], data["cost"]
    assert from_dict(data).ratio == 0.30000000000000004
    assert run_id(from_dict(data)) != run_id(config)
    for change in ({"rato": 0.3}, {"model": "m"}, {"ratio": {"a": 1}}):
        with pytest.raises(
            ConfigError, match=f"{next(iter(change))}: expected a key of the schema"
        ):
            from_dict(data | change)


def test_every_stored_record_still_has_the_id_of_its_configuration():
    """A change of the schema that renames finished runs would measure them all again."""
    paths = sorted((CONF.parent / "results").glob("*/*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    records = [record for record in records if "config" in record]
    assert len(records) >= 1000
    studies = set()
    for record in records:
        config = from_dict(record["config"])
        if config.study not in studies:  # one of each study the way that the program reads it
            assert from_hydra(OmegaConf.create(record["config"])) == config
            studies.add(config.study)
        for key in ("train", "validation", "test", "path", "calibration_path"):
            if (path := getattr(config.dataset, key)) is not None:
                setattr(config.dataset, key, content_of(path))
        assert run_id(config) == record["run_id"]


def test_what_makes_no_other_run_and_what_came_later_is_said_at_the_field():
    neutral = {"tracking.mode", "study", "results", "device", "save_to", "if_stored"}
    neutral |= {"calibration.batch_size", "evaluation.batch_size", "dataset.evaluation_split"}
    assert neutral <= set(defaults_noted("neutral"))
    assert not {"ratio", "seed", "dtype", "pruning.kinds"} & set(defaults_noted("neutral"))
    later = defaults_noted("later")
    assert later["round_to"] == 1
    assert later["save_dtype"] is None
    assert later["evaluation.zero_shot.tasks"] == []
    assert later["pruning.sensitivity_tokens"] == 2048
    assert not {"ratio", "pruning.method", "study"} & set(later)
