"""The card and the metadata of a saved model."""

import hashlib

import pytest
import yaml
from huggingface_hub import CommitOperationAdd, ModelCard
from pico_data import word_tokenizer
from pico_models import LAYERS, pico_batches, pico_model, random_plan, selection_edits
from pico_project import save_checkpoint, sentence_overrides
from safetensors import safe_open

import stat_repro
from stat_repro.plan import PruningPlan
from stat_repro.surgery.checkpoint import save_pruned
from stat_repro.surgery.edit import prune_model

SUMMARY = {
    "mac_kept_fraction": 0.61234567,
    "metrics": {
        "dense": {"accuracy": 0.75},
        "pruned": {"accuracy": 0.5},
        "protocol": {"split": "test", "join": "a|b\n"},
    },
    "calibration": {"data": "/home/me/mine.csv", "seed": 3},
}


@pytest.fixture(scope="module")
def result():
    model = pico_model("llama_grouped")
    return stat_repro.compress(model, pico_batches(model, 2), ratio=0.4)


def card_of(folder):
    """Header and body, as the hub reads them."""
    card = ModelCard.load(folder / "README.md")
    _, header, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == card.data.to_dict()
    return card.data.to_dict(), card.text


def saved(result, folder, **options):
    return save_pruned(result.model, folder, plan=result.plan, **options)


def test_the_card_says_what_is_known(result, tmp_path):
    folder = saved(
        result, tmp_path / "a", run_config={"ratio": 0.4}, record_summary=SUMMARY, base_model="o/p"
    )
    header, body = card_of(folder)
    assert header == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "unknown",
        "base_model": "o/p",
        "tags": ["pruning", "structured-pruning", "stat"],
    }
    assert "| mac_kept_fraction |  | 0.612346 |" in body
    assert "| metrics.accuracy | 0.75 | 0.5 |" in body
    assert "- split: test\n- join: a\\|b\\n\n" in body
    assert "- data: mine.csv\n- seed: 3\n" in body
    assert "remove: 0.4." in body
    plan = result.plan
    assert f"| 1 | {plan.head_counts[1]} / 3 | {plan.neuron_counts[1]} / 20 |" in body
    assert "| layer | key/value groups | neurons |" in body
    assert "trust_remote_code=True" in body
    assert "That of `o/p`, which was not found here: unknown." in body
    assert "- Flynn et al., 2024, [arXiv 2406.00061]" in body


@pytest.mark.parametrize(
    ("inside", "base_model"), [("mine", "."), (".", "./mine"), ("..", "own/mine")]
)
def test_the_card_names_the_folder_of_the_dense_model(
    inside, base_model, result, tmp_path, monkeypatch
):
    """And not a model of the hub that `own/mine` would be."""
    (tmp_path / "own" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "own" / inside)
    header, body = card_of(saved(result, tmp_path / "out", base_model=base_model))
    assert header["base_model"] == "mine"
    assert "# mine, pruned" in body


@pytest.mark.parametrize(
    ("whole", "removed"),
    [
        ((), "whole attention key/value groups and FFN neurons"),
        (("attention",), "FFN neurons"),
        (("ffn",), "whole attention key/value groups"),
        (("attention", "ffn"), "no units"),
    ],
)
def test_the_card_names_what_was_removed(whole, removed, tmp_path):
    model = pico_model("llama_grouped")
    plan = random_plan(model, whole=[(i, kind) for i in range(LAYERS) for kind in whole])
    pruned = prune_model(model, plan, selection_edits(model, plan))
    _, body = card_of(save_pruned(pruned, tmp_path / "a", plan=plan, base_model="p"))
    assert f"`p` with {removed} removed by stat_repro" in body


def test_the_card_says_nothing_that_is_not_known(result, tmp_path):
    folder = saved(result, tmp_path / "bare", base_model="pico: a | b")
    header, body = card_of(folder)
    assert "base_model" not in header  # the hub would refuse the folder
    assert "# pico: a | b, pruned" in body
    assert "Measured" not in body
    assert "## Calibration\n\nNot recorded.\n" in body
    assert not (folder / "run_config.json").exists()
    assert not (folder / "record.json").exists()
    _, body = card_of(
        saved(result, tmp_path / "b", base_model="p", record_summary=result.report.summary)
    )
    assert "- examples: 8\n- tokens: " in body
    assert "| parameters | " in body


@pytest.mark.parametrize(
    ("parent", "expected", "words"),
    [
        ("license: mit", {"license": "mit"}, "as its card says: mit."),
        (
            "license: other\nlicense_name: mine\nlicense_link: LICENSE",
            {"license": "other", "license_name": "mine", "license_link": "LICENSE"},
            "as its card says: other, mine, LICENSE.",
        ),
        ("tags: [x]", {"license": "unknown"}, "unknown."),
        ("license: [", {"license": "unknown"}, "unknown."),
    ],
)
def test_the_licence_is_that_of_the_parent(result, parent, expected, words, tmp_path):
    (tmp_path / "dense").mkdir()
    (tmp_path / "dense" / "README.md").write_text(f"---\n{parent}\n---\n# dense\n")
    header, body = card_of(saved(result, tmp_path / "a", base_model=str(tmp_path / "dense")))
    assert {key: header[key] for key in header if key.startswith("license")} == expected
    assert f"That of `dense`, {'as' if 'as its' in words else 'which'}" in body
    assert words in body
    assert str(tmp_path) not in body


def metadata_of(folder, name="model.safetensors"):
    with safe_open(folder / name, "pt") as file:
        return file.metadata()


def test_the_weights_name_the_plan(result, tmp_path):
    folder = saved(result, tmp_path / "a", base_model="pico")
    digest = hashlib.sha256((folder / "plan.json").read_bytes()).hexdigest()
    assert metadata_of(folder) == {"format": "pt", "plan_sha256": digest}
    assert digest in (folder / "README.md").read_text()
    assert int.from_bytes((folder / "model.safetensors").read_bytes()[:8], "little") % 8 == 0


def test_so_do_those_of_a_checkpoint_that_is_cut_layer_by_layer(tmp_path):
    dense = save_checkpoint(tmp_path / "dense", "llama_grouped")
    batches = pico_batches(pico_model("llama_grouped"), 2)
    stat_repro.compress_checkpoint(dense, tmp_path / "out", batches, ratio=0.4)
    digest = hashlib.sha256((tmp_path / "out" / "plan.json").read_bytes()).hexdigest()
    first = min(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert metadata_of(tmp_path / "out", first)["plan_sha256"] == digest
    assert digest in (tmp_path / "out" / "model.safetensors.index.json").read_text()
    assert "- examples: 8\n" in card_of(tmp_path / "out")[1]


def test_the_hub_takes_the_folder_as_it_is(result, tmp_path):
    """As far as the library allows without the network: every file as part of a commit."""
    folder = saved(result, tmp_path / "a", base_model="pico", tokenizer=word_tokenizer())
    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    commit = [CommitOperationAdd(name, path) for name, path in files.items()]
    sizes = {operation.path_in_repo: operation.upload_info.size for operation in commit}
    assert sizes == {name: path.stat().st_size for name, path in files.items()}
    assert "README.md" in sizes


def test_saved_twice_it_is_the_same_byte_for_byte(result, tmp_path):
    options = {"base_model": "pico", "record_summary": SUMMARY, "tokenizer": word_tokenizer()}
    first, second = (saved(result, tmp_path / name, **options) for name in ("a", "b"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_a_run_leaves_its_record_and_its_numbers_in_the_folder(tmp_path, run):
    overrides = [*sentence_overrides(tmp_path), "ratio=0.2", f"save_to={tmp_path / 'models'}"]
    assert run(overrides, tmp_path).returncode == 0
    (stored,) = (tmp_path / "results" / "local").glob("*.json")
    folder = tmp_path / "models" / stored.stem
    assert (folder / "record.json").read_text() == stored.read_text()
    _, body = card_of(folder)
    for part in (
        "metrics.accuracy",
        "- data: table_file",
        "- seed: 0",
        "- split: test",
        stored.stem,
    ):
        assert part in body
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
    shown = run(["show", str(folder)], tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "model.path=bert@" in shown.stdout
    assert PruningPlan.from_json((folder / "plan.json").read_text()).layers
