"""Pruned models in other programs: quality by size on disk after quantising, and speed.

python experiments/served.py quantised_smollm2 quantised_minilm speed_llama_cpp speed_onnx

Needs `pip install -e '.[clients]'`. Each study is stored in results/served.json, beside those
that are there, with the commit and the machine; `python docs/serving.py` makes the tables of
docs/serving.md from it. Dense and pruned models take turns: a busy machine is busy for both.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel

import stat_repro
from stat_repro.cost.latency import spread, time_in_turns
from stat_repro.export.gguf_file import write_gguf
from stat_repro.export.onnx_file import write_onnx
from stat_repro.measure import processor_name
from stat_repro.models.loading import checkpoint_folder
from stat_repro.paths import results_dir
from stat_repro.results import collect
from stat_repro.results.strict_json import stamped
from stat_repro.run.compose import compose_run
from stat_repro.run.sweep_cache import SweepCache

REPORT = results_dir() / "served.json"
_SEED = 0
_THREADS = 1  # other work may be on the other processors


def main() -> None:
    """Carry out the studies that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="STUDY",
                        help="all if none is named: " + ", ".join(STUDIES))  # fmt: skip
    names = parser.parse_args().names or list(STUDIES)
    # Not by `choices`, which Python 3.11 asks for no names at all to be among.
    if unknown := [name for name in names if name not in STUDIES]:
        parser.error(f"STUDY: expected some of {', '.join(STUDIES)}; got {', '.join(unknown)}")
    logging.disable(logging.WARNING)
    torch.set_num_threads(_THREADS)
    for name in names:
        rows = STUDIES[name]()
        where = collect(device="cpu", dtypes={"model": "float32"}, data_hashes={}, model_hash=None)
        stored = json.loads(REPORT.read_text("utf-8")) if REPORT.is_file() else {}
        stored[name] = stamped({
            "rows": rows, "threads": _THREADS, "seed": _SEED, "provenance": where,
            "processor": processor_name(torch.device("cpu")),
        })  # fmt: skip
        REPORT.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", "utf-8")


def _compressed(
    config: Any, cache: SweepCache, ratios: Iterable[float], round_to: int
) -> Iterable[tuple[float, Any]]:
    """Pruned models by STAT, the whole one at ratio 0."""
    dense, calibrated = cache.dense(config), cache.calibrated(config)
    for ratio in ratios:
        yield ratio, stat_repro.compress(
            dense.loaded.model, calibrated.examples.batches, ratio=ratio, round_to=round_to,
            sequence_length=dense.workload.sequence_length, calibration=calibrated.calibration,
        )  # fmt: skip


def quantised_smollm2() -> list[dict[str, Any]]:
    """Perplexity in llama.cpp by type and ratio, on the first windows of the editorials."""
    import llama_cpp

    config = compose_run(
        {"model": "smollm2", "dataset": "nyt_editorials"},
        {"calibration.examples": 64, "seed": _SEED, "device": "cpu"},
    )
    cache, rows = SweepCache(), []
    dense = cache.dense(config)
    windows = dense.workload._evaluation.ids[:6].numpy()
    for ratio, done in _compressed(config, cache, (0.0, 0.1, 0.2, 0.3), 256):
        with tempfile.TemporaryDirectory() as work:
            folder = stat_repro.save_pruned(
                done.model, Path(work) / "model", plan=done.plan,
                tokenizer=dense.loaded.tokenizer, base_model="smollm2",
            )  # fmt: skip
            for kind in (None, "Q8_0", "Q4_K_M"):
                file = Path(work) / "model.gguf"
                write_gguf(folder, file, kind)
                llama = llama_cpp.Llama(
                    str(file), n_ctx=512, logits_all=True, verbose=False, n_threads=_THREADS,
                    n_threads_batch=_THREADS,
                )  # fmt: skip
                losses = [_loss(llama, window) for window in windows]
                llama.close()
                rows.append({
                    "ratio": ratio, "type": kind or "F32", "bytes": file.stat().st_size,
                    "perplexity": float(np.exp(statistics.fmean(losses))),
                    "windows": len(losses), "mac_kept": done.report.mac_kept_fraction,
                })  # fmt: skip
                print(rows[-1], flush=True)
    return rows


def _loss(llama: Any, window: np.ndarray) -> float:
    """Mean negative log-likelihood of the tokens of a window but the first."""
    llama.reset()
    llama.eval(window.tolist())
    logits = torch.from_numpy(np.array(llama.scores[: len(window) - 1]))
    return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(window[1:])))


def quantised_minilm() -> list[dict[str, Any]]:
    """Accuracy and KL on movie_reviews by bits and ratio, with torchao.

    Embeddings have 8 bits in all but the first. On CPUs torchao keeps 4 bits in whole bytes, so
    their size is counted: half a byte for each, and scales and zero points as they are.
    """
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup

    config = compose_run({}, {"seed": _SEED, "device": "cpu"})
    cache, rows = SweepCache(), []
    dense = cache.dense(config)
    for ratio, done in _compressed(config, cache, (0.0, 0.3, 0.5, 0.6, 0.7), 32):
        for bits in (32, 8, 4):
            model = done.model if bits == 32 else _copy(done.model)
            if bits < 32:
                kind = torch.int8 if bits == 8 else torch.int4
                grain = PerAxis(0) if bits == 8 else PerGroup(32)
                by_kind = {
                    torch.nn.Embedding: IntxWeightOnlyConfig(torch.int8, PerAxis(0)),
                    torch.nn.Linear: IntxWeightOnlyConfig(kind, grain),
                }
                for of, how in by_kind.items():
                    quantize_(model, how, filter_fn=partial(_fits, of=of))
            metrics = dense.workload.evaluate(
                dense.loaded.model, model, cache.dense_outputs(config), config.evaluation
            ).metrics
            rows.append({
                "ratio": ratio, "bits": bits, "bytes": _bytes(model),
                "accuracy": metrics["pruned"]["accuracy"], "kl": metrics["fidelity"]["kl"],
                "mac_kept": done.report.mac_kept_fraction,
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _fits(module: Any, name: str, of: type) -> bool:
    """Whether a module is of a kind, and its rows can be cut into groups."""
    return type(module) is of and (of is not torch.nn.Linear or module.in_features % 32 == 0)


def _copy(model: Any) -> Any:
    copied = type(model)(model.config).eval()
    copied.load_state_dict(model.state_dict())
    return copied


def _bytes(model: Any) -> int:
    """Of all weights as they lie on disk; 4 bits counted as half a byte."""
    total = 0
    for tensor in {id(t): t for t in model.state_dict().values()}.values():
        quantised = getattr(tensor, "qdata", None)
        if quantised is None:
            total += tensor.nbytes
            continue
        total += quantised.nbytes // (2 if tensor.target_dtype == torch.int4 else 1)
        total += sum(getattr(tensor, k).nbytes for k in ("scale", "zero_point"))
    return total


def _in_turns(works: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Seconds of every work in every turn, after one turn that is not timed."""
    times = time_in_turns(list(works.values()), torch.device("cpu"), warmup=1, repeats=turns)
    return dict(zip(works, times, strict=True))


def _speed_ups(seconds: dict[str, list[float]], dense: str) -> dict[str, dict[str, float]]:
    return {
        name: spread([a / b for a, b in zip(seconds[dense], times, strict=True)])
        for name, times in seconds.items()
    }


def speed_llama_cpp() -> list[dict[str, Any]]:
    """SmolLM2 in llama.cpp at 20 and 30 %: a text of 256 tokens read, and 64 tokens generated.

    Few windows calibrate, since only the sizes matter.
    """
    import llama_cpp

    config = compose_run(
        {"model": "smollm2", "dataset": "nyt_editorials"},
        {"calibration.examples": 4, "seed": _SEED, "device": "cpu"},
    )
    cache, rows = SweepCache(), []
    dense = cache.dense(config)
    prompt = dense.workload._evaluation.ids[0, :256].tolist()
    with tempfile.TemporaryDirectory() as work:
        folders = {
            ratio: stat_repro.save_pruned(
                done.model, Path(work) / f"{ratio}", plan=done.plan,
                tokenizer=dense.loaded.tokenizer, base_model="smollm2",
            )
            for ratio, done in _compressed(config, cache, (0.0, 0.2, 0.3), 32)
        }  # fmt: skip
        for kind in (None, "Q8_0", "Q4_K_M"):
            models = {}
            for ratio, folder in folders.items():
                file = Path(work) / f"{ratio}-{kind}.gguf"
                write_gguf(folder, file, kind)
                models[f"{ratio}"] = llama_cpp.Llama(
                    str(file), n_ctx=512, verbose=False, n_threads=_THREADS,
                    n_threads_batch=_THREADS,
                )  # fmt: skip

            def read(llama: Any) -> None:
                llama.reset()
                llama.eval(prompt)

            def write(llama: Any) -> None:
                llama.reset()
                llama.eval(prompt[:16])
                for _ in range(64):
                    llama.eval([llama.sample(temp=0.0)])

            for what, act in (("256 tokens read", read), ("64 tokens generated", write)):
                works = {name: partial(act, model) for name, model in models.items()}
                seconds = _in_turns(works, 9)
                for name, speed_up in _speed_ups(seconds, "0.0").items():
                    rows.append({
                        "ratio": float(name), "type": kind or "F32", "what": what,
                        "seconds": statistics.median(seconds[name]), "speedup": speed_up,
                    })  # fmt: skip
                    print(rows[-1], flush=True)
            for llama in models.values():
                llama.close()
    return rows


def speed_onnx() -> list[dict[str, Any]]:
    """Encoders in onnxruntime and torch, dense and pruned, 1 and 8 sentences of 128 tokens."""
    import onnxruntime

    rows = []
    for name in ("minilm", "mpnet_base"):
        model = AutoModel.from_pretrained(checkpoint_folder(compose_run({"model": name}, {}).model))
        tokens = torch.randint(1000, 5000, (8, 128), generator=torch.Generator().manual_seed(0))
        given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        models, sessions = {}, {}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _THREADS
        with tempfile.TemporaryDirectory() as work:
            for ratio in (0.0, 0.3, 0.5, 0.7):
                done = stat_repro.compress(
                    model.eval(), [given], ratio=ratio, round_to=8, method="magnitude",
                    allocation="uniform",
                )  # fmt: skip
                models[f"{ratio}"] = done.model.eval()
                done.model.save_pretrained(Path(work) / f"{ratio}")
                file = Path(work) / f"{ratio}.onnx"
                write_onnx(Path(work) / f"{ratio}", file)
                sessions[f"{ratio}"] = onnxruntime.InferenceSession(str(file), options)
        inputs = sessions["0.0"].get_inputs()
        for size in (1, 8):
            batch = {key: value[:size] for key, value in given.items()}
            batch = {one.name: batch.get(one.name, tokens[:size] * 0) for one in inputs}
            arrays = {key: value.numpy() for key, value in batch.items()}
            works: dict[str, Callable[[], object]] = {}
            for ratio, session in sessions.items():
                works[f"onnxruntime {ratio}"] = partial(session.run, None, arrays)
                works[f"torch {ratio}"] = partial(models[ratio], **batch)
            with torch.inference_mode():
                seconds = _in_turns(works, 15 if name == "minilm" else 7)
            for program in ("onnxruntime", "torch"):
                own = {k: v for k, v in seconds.items() if k.startswith(program)}
                for key, speed_up in _speed_ups(own, f"{program} 0.0").items():
                    rows.append({
                        "model": name, "program": program, "ratio": float(key.split()[1]),
                        "batch": size, "seconds": statistics.median(own[key]),
                        "speedup": speed_up,
                    })  # fmt: skip
                    print(rows[-1], flush=True)
    return rows


STUDIES = {
    one.__name__: one for one in (quantised_smollm2, quantised_minilm, speed_llama_cpp, speed_onnx)
}

if __name__ == "__main__":
    main()
