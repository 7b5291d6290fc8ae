"""Saved folders: what is in them, and that they load everywhere with equal outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from pico_data import word_tokenizer
from pico_models import (
    PICO_HEADS,
    pico_batches,
    pico_model,
    pico_outputs,
    random_plan,
    selection_edits,
)
from pico_project import qwen_tokenizer
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from stat_repro.plan import LayerPlan, PlanError, PruningPlan
from stat_repro.surgery.checkpoint import (
    CheckpointError,
    check_unused,
    complete_folder,
    load_plan,
    save_pruned,
)
from stat_repro.surgery.edit import SiteEdit, prune_model

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURES = {
    "bert": "AutoModelForSequenceClassification",
    "roberta": "AutoModelForSequenceClassification",
    "xlm_roberta": "AutoModelForSequenceClassification",
    "camembert": "AutoModelForSequenceClassification",
    "electra": "AutoModelForSequenceClassification",
    "mpnet": "AutoModelForSequenceClassification",
    "modernbert": "AutoModelForSequenceClassification",
    "distilbert": "AutoModelForSequenceClassification",
    "llama_grouped": "AutoModelForCausalLM",
    "llama_tied": "AutoModelForCausalLM",
    "llama_multi_query": "AutoModelForCausalLM",
    "mistral": "AutoModelForCausalLM",
    "qwen2_mixed": "AutoModelForCausalLM",
    "qwen3": "AutoModelForCausalLM",
    "smollm3": "AutoModelForCausalLM",
    "olmo2": "AutoModelForCausalLM",
    "gemma2": "AutoModelForCausalLM",
    "gemma3": "AutoModelForCausalLM",
    "phi3": "AutoModelForCausalLM",
    "opt": "AutoModelForCausalLM",
    "opt_post_norm": "AutoModelForCausalLM",
}

# Loads every folder given, in a process of its own, and writes what the models return.
LOADER = """
import json, sys
way, jobs, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
if way == "package":
    sys.path.insert(0, sys.argv[4])
    import stat_repro
else:
    sys.modules["stat_repro"] = None  # any import of the package fails
import torch, transformers
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
options = {} if way == "package" else {"trust_remote_code": True}
results = {}
for name, job in jobs.items():
    batch = load_file(job["batch"])
    for case, folder in (("first", job["folder"]), ("again", job["folder"] + "-" + way)):
        auto = getattr(transformers, job["auto"])
        model = auto.from_pretrained(folder, **options).eval()
        transformers.AutoModel.from_pretrained(folder, **options)
        with torch.no_grad():
            results[name + "." + case] = model(**batch).logits
        if case == "first":
            model.save_pretrained(job["folder"] + "-" + way)
    if model.can_generate():
        tokens = model.generate(**batch, max_new_tokens=4, do_sample=False)
        results[name + ".tokens"] = tokens
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    results[name + ".vocabulary"] = torch.tensor(len(tokenizer))
    results[name + ".text"] = torch.tensor(tokenizer("bad w12 w3")["input_ids"])
modules = [m for m in sys.modules if m.startswith("stat_repro.")]
assert bool(modules) == (way == "package"), modules
save_file(results, out)
"""


def pruned_pico(
    name: str, head: str | None = None, **options: Any
) -> tuple[PreTrainedModel, PruningPlan]:
    """A pruned model with an empty site of each kind and a bias that only layer 1 has."""
    model = pico_model(name, head, **options)
    plan = random_plan(model, empty=[(0, "attention"), (2, "ffn")])
    edits = selection_edits(model, plan)
    biased = [
        SiteEdit(e.site, e.kept, e.consumer_weight, torch.linspace(-1, 1, 24))
        if e.site.layer == 1
        else e
        for e in edits
    ]
    return prune_model(model, plan, biased), plan


def test_loads_in_a_new_process_with_and_without_the_package(tmp_path: Path) -> None:
    jobs, expected = {}, {}
    for name, auto in ARCHITECTURES.items():
        model, plan = pruned_pico(name)
        batch = pico_batches(model, 1, padding_side="left")[0]
        tokenizer = (
            qwen_tokenizer() if model.config.model_type == "stat_qwen2" else word_tokenizer()
        )
        folder = save_pruned(
            model, tmp_path / name, plan=plan, tokenizer=tokenizer, base_model="pico"
        )
        save_file(batch, tmp_path / f"{name}.batch")
        jobs[name] = {"folder": str(folder), "auto": auto, "batch": str(tmp_path / f"{name}.batch")}
        with torch.no_grad():
            expected[f"{name}.first"] = expected[f"{name}.again"] = model(**batch).logits
        if model.can_generate():
            tokens = model.generate(**batch, max_new_tokens=4, do_sample=False)
            expected[f"{name}.tokens"] = tokens
        expected[f"{name}.vocabulary"] = torch.tensor(len(tokenizer))
        expected[f"{name}.text"] = torch.tensor(tokenizer("bad w12 w3")["input_ids"])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "hf_modules")
    ways = {}
    for way in ("package", "remote_code"):  # side by side
        arguments = [way, json.dumps(jobs), str(tmp_path / f"{way}.safetensors"), str(ROOT)]
        ways[way] = subprocess.Popen(
            [sys.executable, "-I", "-c", LOADER, *arguments],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    for way, process in ways.items():
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        results = load_file(tmp_path / f"{way}.safetensors")
        assert set(results) == set(expected)
        for key, value in expected.items():
            assert torch.equal(results[key], value), f"{way} {key}"


@pytest.mark.parametrize(("name", "head"), PICO_HEADS)
def test_every_head_survives_a_round_trip(name: str, head: str, tmp_path: Path) -> None:
    model, plan = pruned_pico(name, head)
    folder = save_pruned(model, tmp_path / "pruned", plan=plan, base_model="pico")
    auto = getattr(hf, "AutoModel" + ("" if head == "Model" else head))
    again, report = auto.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert type(again) is type(model)
    batch = pico_batches(model, 1)[0]
    assert torch.equal(pico_outputs(again.eval(), batch), pico_outputs(model, batch))


@pytest.mark.parametrize("name", ["bert", "llama_tied", "opt_post_norm"])
def test_bfloat16_round_trip(name: str, tmp_path: Path) -> None:
    model, plan = pruned_pico(name, dtype=torch.bfloat16)
    folder = save_pruned(model, tmp_path / "pruned", plan=plan, base_model="pico")
    again = getattr(hf, ARCHITECTURES[name]).from_pretrained(folder).eval()
    assert again.dtype == torch.bfloat16
    batch = pico_batches(model, 1)[0]
    assert torch.equal(pico_outputs(again, batch), pico_outputs(model, batch))


def test_reloaded_model_can_be_pruned_and_saved_again(tmp_path: Path) -> None:
    model, plan = pruned_pico("llama_tied")
    folder = save_pruned(model, tmp_path / "once", plan=plan, base_model="pico")
    again = hf.AutoModelForCausalLM.from_pretrained(folder)
    second = random_plan(again, seed=5)
    smaller = prune_model(again, second, selection_edits(again, second))
    twice = save_pruned(smaller, tmp_path / "twice", plan=second, base_model="pico-pruned")
    assert load_plan(twice) == second
    batch = pico_batches(model, 1)[0]
    loaded = hf.AutoModelForCausalLM.from_pretrained(twice)
    assert torch.equal(pico_outputs(loaded, batch), pico_outputs(smaller.eval(), batch))


@pytest.mark.parametrize(
    ("name", "stock"),
    [
        ("bert", hf.BertForSequenceClassification),
        ("distilbert", hf.DistilBertForSequenceClassification),
        ("llama_grouped", hf.LlamaForCausalLM),
        ("opt", hf.OPTForCausalLM),
    ],
)
def test_stock_classes_refuse_the_folder(name: str, stock: type, tmp_path: Path) -> None:
    model, plan = pruned_pico(name)
    folder = save_pruned(model, tmp_path / "pruned", plan=plan, base_model="pico")
    with pytest.raises(RuntimeError, match=r"size mismatch|mismatched|is a per-layer attribute"):
        stock.from_pretrained(folder)


def test_contents_of_the_folder(tmp_path: Path) -> None:
    model, plan = pruned_pico("bert")
    model.config.name_or_path = str(tmp_path / "source")
    folder = save_pruned(
        model,
        tmp_path / "deep" / "pruned",
        plan=plan,
        tokenizer=word_tokenizer(),
        run_config={"ratio": 0.4, "model": {"path": str(tmp_path / "mine"), "name": "x/y"}},
        record_summary={"mac_kept_fraction": 0.61234567, "metrics": {"dense": {"accuracy": 0.75}}},
        base_model=str(tmp_path / "mine"),
    )
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "README.md", "config.json", "model.safetensors", "plan.json", "run_config.json",
        "configuration_stat.py", "layers_stat.py", "modeling_stat.py",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert not [name for name in names if name.endswith((".bin", ".pkl", ".pt"))]
    assert [path.name for path in folder.parent.iterdir()] == ["pruned"]
    assert load_plan(folder) == plan
    run_config = json.loads((folder / "run_config.json").read_text())
    assert run_config == {"ratio": 0.4, "model": {"path": "mine", "name": "x/y"}}
    for path in folder.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert str(ROOT).encode() not in path.read_bytes(), path.name


def test_refusals_leave_nothing_behind(tmp_path: Path) -> None:
    model, plan = pruned_pico("bert")
    used = tmp_path / "used"
    used.mkdir()
    (used / "note.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="expected a new or empty folder"):
        save_pruned(model, used, plan=plan, base_model="pico")
    with pytest.raises(CheckpointError, match="got BertForSequenceClassification"):
        save_pruned(pico_model("bert"), tmp_path / "a", plan=plan, base_model="pico")
    other = PruningPlan((LayerPlan(tuple(range(4)), tuple(range(20)), 4, 20),) * 3, "none")
    with pytest.raises(
        PlanError, match=r"attention units per layer, as the model has; got \[4, 4, 4\]"
    ):
        save_pruned(model, tmp_path / "b", plan=other, base_model="pico")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    assert [path.name for path in used.iterdir()] == ["note.txt"]


def test_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    model, plan = pruned_pico("bert")
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_pruned(model, tmp_path / "a", plan=plan, run_config={"x": object()}, base_model="pico")
    assert not list(tmp_path.iterdir())


def test_empty_folder_is_used(tmp_path: Path) -> None:
    model, plan = pruned_pico("bert")
    (tmp_path / "a").mkdir()
    assert load_plan(save_pruned(model, tmp_path / "a", plan=plan, base_model="pico")) == plan


def test_an_empty_folder_that_has_to_stay_is_refused_before_the_work(tmp_path, monkeypatch) -> None:
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CheckpointError, match="the working folder, a mount point"):
        check_unused(Path())
    link = tmp_path / "link"
    link.symlink_to("there")
    check_unused(link)
    with complete_folder(link) as partial:
        (partial / "a").touch()
    assert link.is_symlink()
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["a"]
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(CheckpointError, match="or one in a folder that cannot be written"):
        check_unused(tmp_path / "here")


def test_load_plan_tells_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"plan\.json: expected the plan of a pruned model"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(CheckpointError, match="expected JSON"):
        load_plan(tmp_path)
    (tmp_path / "plan.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="expected JSON"):
        load_plan(tmp_path)
    keys = {"plan_version": 1, "method": "stat", "details": {}}
    for data, message in (
        ([], "plan_version: expected 1 or 2; got None"),
        ({**keys, "layers": 3}, "layers: expected a list; got 3"),
        ({**keys, "layers": [3]}, "layer 0: expected keys .*; got 3"),
    ):
        (tmp_path / "plan.json").write_text(json.dumps(data))
        with pytest.raises(PlanError, match=message):
            load_plan(tmp_path)
