"""GGUF files, read by llama.cpp where it is installed."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers as hf
from pico_export import (
    TEXT,
    TOKENIZERS,
    byte_tokenizer,
    gguf_fields,
    piece_tokenizer,
    saved_decoder,
)
from pico_models import EMPTY_SITES

import stat_repro
from stat_repro.assets.packages import model_folder
from stat_repro.export import __main__ as command
from stat_repro.export.errors import ExportError
from stat_repro.export.gguf_file import write_gguf

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS = {
    "llama": ("llama_grouped", {}),
    "llama_bias": ("llama_bias", {}),
    "llama_tied": ("llama_tied", {}),
    "llama_scaled": ("llama_grouped", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
}
EMPTY = {
    "none": [],
    **EMPTY_SITES,
    "first heads": [(0, "attention")],
    "neurons": [(0, "ffn"), (2, "ffn")],
}


@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("bias", [False, True])
def test_heads_and_neurons_of_zeros_where_llama_cpp_needs_them(
    empty: str, bias: bool, tmp_path: Path
) -> None:
    name = "llama_bias" if bias else "llama_grouped"
    model = saved_decoder(tmp_path / "pruned", name, EMPTY[empty])
    write_gguf(tmp_path / "pruned", tmp_path / "model.gguf")
    found = gguf_fields(tmp_path / "model.gguf")
    heads, groups, neurons = (
        found[f"deci.{key}"]
        for key in ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
    )
    tensors = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    config = model.config
    for i in range(3):
        kept = config.query_heads_per_layer[i], config.kv_heads_per_layer[i]
        assert (heads[i], groups[i]) in (kept, (1, 1))
        if (heads[i], groups[i]) != kept:
            assert kept == (0, 0)
            assert i == 0 or bias
        assert neurons[i] in (config.ffn_size_per_layer[i], 1)
        assert neurons[i] or not heads[i]
        assert (f"blk.{i}.attn_norm.weight" in tensors) == (heads[i] > 0)
        assert (f"blk.{i}.ffn_down.weight" in tensors) == (neurons[i] > 0)
        assert heads[i] or f"blk.{i}.attn_output.bias" not in tensors
    assert heads[0] > 0
    assert neurons[2] > 0


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("opt", {}, "model_type: expected llama or mistral or qwen2, .*got opt; choose --format"),
        ("qwen3", {}, "model_type: .*got qwen3"),
        ("mistral", {"sliding_window": 4}, "sliding_window: expected None, .*got 4"),
        ("llama_grouped", {"hidden_act": "gelu"}, "hidden_act: expected silu, .*got gelu"),
        (
            "llama_grouped",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type: expected default or linear or llama3, .*got dynamic",
        ),
    ],
)
def test_what_llama_cpp_cannot_hold_is_refused_by_name(
    name: str, changes: dict, message: str, tmp_path: Path
) -> None:
    sizes = {"head_dim": None} if name == "opt" else {}
    saved_decoder(tmp_path / "pruned", name, [], **changes, **sizes)
    with pytest.raises(ExportError, match=message):
        write_gguf(tmp_path / "pruned", tmp_path / "model.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["pruned"]


def test_widths_that_do_not_fit_blocks_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved_decoder(tmp_path / "pruned", "llama_grouped", [])
    out = tmp_path / "model.gguf"
    code = command.main(
        [str(tmp_path / "pruned"), "--format", "gguf", "--quantise", "Q8_0", "--out", str(out)]
    )
    assert code == 0
    assert "round_to=32 gives widths that fit" in caplog.text
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(out).tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["output_norm.weight"] == "F32"


def opened(path: Path, exact: bool = False) -> object:
    """In llama.cpp as it comes, which keeps keys and values in 16 bits, or with 32 bits for all."""
    import llama_cpp

    bits = llama_cpp.GGML_TYPE_F32
    options = {"flash_attn": False, "type_k": bits, "type_v": bits} if exact else {}
    return llama_cpp.Llama(
        str(path), n_ctx=64, logits_all=True, verbose=False, n_threads=1, **options
    )


def logits_of(llama: object, tokens: list[int]) -> np.ndarray:
    llama.reset()
    llama.eval(tokens)
    return np.array(llama.scores[: len(tokens)])


@pytest.mark.clients
@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_gives_the_logits_and_tokens_of_transformers(
    name: str, empty: str, tmp_path: Path
) -> None:
    pytest.importorskip("llama_cpp")
    pico, changes = MODELS[name]
    model = saved_decoder(tmp_path / "pruned", pico, EMPTY[empty], **changes)
    write_gguf(tmp_path / "pruned", tmp_path / "model.gguf")
    llama = opened(tmp_path / "model.gguf")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "pruned")
    tokens = tokenizer(TEXT)["input_ids"]
    assert llama.tokenize(TEXT.encode(), add_bos=False) == tokens
    tokens = tokens[:24]
    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    batched = torch.from_numpy(logits_of(llama, tokens))
    llama.reset()
    for token in tokens:
        llama.eval([token])
    single = torch.from_numpy(np.array(llama.scores[: len(tokens)]))
    llama.close()
    exact = opened(tmp_path / "model.gguf", exact=True)
    for got, error in (
        (batched, 1.8e-3),
        (single, 1.8e-3),
        (torch.from_numpy(logits_of(exact, tokens)), 1e-5),
    ):
        assert float((got - expected).norm() / expected.norm()) < error
        divergence = torch.nn.functional.kl_div(
            got.log_softmax(-1), expected.log_softmax(-1), log_target=True, reduction="batchmean"
        )
        assert float(divergence) < 1e-6
        assert got.argmax(-1).tolist() == expected.argmax(-1).tolist()
    greedy = model.generate(torch.tensor([tokens[:8]]), max_new_tokens=8, do_sample=False)
    exact.reset()
    produced = []
    for token in exact.generate(tokens[:8], temp=0.0):
        produced.append(token)
        if len(produced) == len(greedy[0]) - 8:
            break
    assert produced == greedy[0, 8:].tolist()


@pytest.mark.clients
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_llama_cpp_cuts_texts_as_the_tokenizer_does(kind: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    saved_decoder(tmp_path / "pruned", "llama_grouped", [])
    tokenizer = piece_tokenizer() if kind == "sentencepiece" else byte_tokenizer(kind)
    tokenizer.save_pretrained(tmp_path / "pruned")
    write_gguf(tmp_path / "pruned", tmp_path / "model.gguf")
    stored = gguf_fields(tmp_path / "model.gguf")
    names = ("llama", "default") if kind == "sentencepiece" else ("gpt2", kind)
    assert (stored["tokenizer.ggml.model"], stored["tokenizer.ggml.pre"]) == names
    llama = llama_cpp.Llama(str(tmp_path / "model.gguf"), vocab_only=True, verbose=False)
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "pruned")
    for text in (
        TEXT,
        "  1234567 8  x\n\n y's I'LL don't",
        "Über straße \u65e5\u672c\u8a9e \U0001f600 a\tb  c\r\n",
        "",
        " ",
    ):
        tokens = llama.tokenize(text.encode(), add_bos=False)
        assert tokens == tokenizer(text)["input_ids"]
        assert llama.detokenize(tokens).decode().strip() == text.strip()
    llama.close()


@pytest.mark.clients
@pytest.mark.real
def test_smollm2_pruned_quantised_and_served(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    source = model_folder("smollm2")
    dense = hf.AutoModelForCausalLM.from_pretrained(source).eval()
    tokenizer = hf.AutoTokenizer.from_pretrained(source)
    text = "The quick brown fox jumps over the lazy dog, and then it sleeps for 12 hours."
    batch = {"input_ids": torch.tensor([tokenizer(text)["input_ids"]])}
    result = stat_repro.compress(
        dense, [batch], ratio=0.2, round_to=256, method="magnitude", allocation="uniform"
    )
    folder = stat_repro.save_pruned(
        result.model, tmp_path / "pruned", plan=result.plan, tokenizer=tokenizer, base_model="x"
    )
    with torch.no_grad():
        expected = result.model.eval()(**batch).logits[0]
    tokens = batch["input_ids"][0].tolist()
    errors = {}
    for kind in (None, "Q8_0", "Q4_K_M"):
        out = tmp_path / f"{kind}.gguf"
        write_gguf(folder, out, kind)
        llama = opened(out, exact=kind is None)
        assert llama.tokenize(text.encode(), add_bos=False) == tokens
        got = torch.from_numpy(logits_of(llama, tokens))
        errors[kind] = float((got - expected).norm() / expected.norm())
        out.unlink()
    assert errors[None] < 1e-4
    # llama.cpp's own quantiser gives the same error for Q8_0; 8 bits hold its activations as well,
    # and a model that was cut without a correction is the more sensitive to that.
    assert errors["Q8_0"] < 0.3
    # 4 bits are coarse for it; the file loads, and its logits are finite and further away.
    assert errors["Q8_0"] < errors["Q4_K_M"] < float("inf")
