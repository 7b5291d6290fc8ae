"""The tables of docs/serving.md, from the stored reports of the clients' tests and of studies.

python -m pytest tests -m clients --junitxml=clients.xml
python docs/serving.py clients.xml      stores what it says in docs/clients.json
python docs/serving.py                  writes the tables again, those of results/served.json too
"""

from __future__ import annotations

import argparse
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from stat_repro.reporting.tables import to_markdown
from stat_repro.results.strict_json import check_stamp

PAGE = Path(__file__).with_name("serving.md")
REPORT = Path(__file__).with_name("clients.json")
SERVED = Path(__file__).parents[1] / "results" / "served.json"
STUDIES = {
    "quantised_smollm2": "SmolLM2 in llama.cpp by its types, perplexity on nyt_editorials:",
    "quantised_minilm": "MiniLM on movie_reviews by torchao's bits:",
    "speed_llama_cpp": "SmolLM2 in llama.cpp against the dense one of the same type:",
    "speed_onnx": "Encoders, 128 tokens, against the dense one in the same program (pruned by "
    "magnitude, equal sizes in all layers: time follows the sizes, whatever chose the units):",
}
# Test, what it shows, and the package whose version was tried.
CLIENTS = {
    "test_torchao_int8": ("torchao, int8 weights, saved and loaded", "torchao"),
    "test_quanto_int8": ("quanto, int8 weights", "optimum-quanto"),
    "test_bitsandbytes_int8": ("bitsandbytes, int8", "bitsandbytes"),
    "test_torch_quantize_dynamic": ("quantize_dynamic", "torch"),
    "test_fully_sharded_data_parallel": ("FSDP2, two processes, one training step", "torch"),
    "test_distributed_data_parallel": ("DistributedDataParallel, two processes", "torch"),
    "test_peft": ("PEFT, DoRA: default targets and all Linears, merged", "peft"),
    "test_quantised_cache": ("quantised cache", "transformers"),
    "test_flex_attention": ("flex attention", "transformers"),
    "test_onnxruntime_gives_the_logits_of_transformers": ("ONNX", "onnxruntime"),
    "test_llama_cpp_gives_the_logits_and_tokens_of_transformers": (
        "llama.cpp (GGUF): logits, greedy text, tokens",
        "llama-cpp-python",
    ),
    "test_llama_cpp_cuts_texts_as_the_tokenizer_does": (
        "llama.cpp: tokenizers",
        "llama-cpp-python",
    ),
    "test_smollm2_pruned_quantised_and_served": (
        "llama.cpp: SmolLM2, also Q8_0 and Q4_K_M",
        "llama-cpp-python",
    ),
}
# Of these tests pytest puts the parameter that is shown first.
_FIRST = ("test_llama_cpp_gives",)


def read(report: Path) -> dict[str, Any]:
    """Per test the version of its package, and what passed, failed and was skipped."""
    tests: dict[str, Any] = {
        name: {"version": version(package), "passed": [], "failed": [], "skipped": []}
        for name, (_, package) in CLIENTS.items()
    }
    for case in ElementTree.parse(report).iter("testcase"):  # our own pytest wrote it
        name, _, parameters = case.get("name", "").partition("[")
        if name in tests:
            kinds = {child.tag for child in case}
            outcome = "skipped" if "skipped" in kinds else "failed" if kinds else "passed"
            tests[name][outcome].append(parameters.rstrip("]"))
    return {name: {k: v if k == "version" else sorted(v) for k, v in one.items()}
            for name, one in tests.items()}  # fmt: skip


def table(tests: dict[str, Any]) -> str:
    """Markdown with a row per client: version, architectures, cases passed of those run."""
    rows = []
    for name, (what, package) in CLIENTS.items():
        one = tests[name]
        place = 0 if name.startswith(_FIRST) else -1
        cases = [re.split("-", case)[place] if "tokenizer" not in name else case
                 for case in one["passed"]]  # fmt: skip
        shown = ", ".join(sorted({case for case in cases if case})) or "SmolLM2"
        passed, run = len(one["passed"]), len(one["passed"]) + len(one["failed"])
        rows.append((what, f"{package} {one['version']}", shown, f"{passed} of {run}"))
    columns = ["client", "package, version", "architectures", "passed"]
    return to_markdown(pd.DataFrame(rows, columns=columns))


def measured(studies: dict[str, Any]) -> str:
    """Markdown with a table for every study of experiments/served.py that is stored."""
    parts = []
    for name, title in STUDIES.items():
        if name not in studies:
            continue
        study = studies[name]
        parts += [
            f"\n{title}\n",
            to_markdown(pd.DataFrame([_cells(row) for row in study["rows"]])),
            f"{study['processor']}, threads: {study['threads']}, seed {study['seed']}, commit "
            f"{study['provenance']['commit'][:10]}.",
        ]
    return "\n".join(parts) + "\n" if parts else "Not measured yet.\n"


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """One row as it is shown."""
    shown = {}
    for key, value in row.items():
        if key == "bytes":
            shown["MB"] = f"{value / 1e6:.1f}"
        elif key == "seconds":
            shown["ms"] = f"{1e3 * value:.1f}"
        elif key == "speedup":
            shown["times as fast (quartiles)"] = (
                f"{value['median']:.2f} ({value['q25']:.2f} to {value['q75']:.2f})"
            )
        elif key in ("ratio", "mac_kept"):
            shown[{"ratio": "MACs removed", "mac_kept": "kept"}[key]] = f"{100 * value:.0f} %"
        else:
            shown[key] = f"{value:.4g}" if isinstance(value, float) else str(value)
    return shown


def page() -> str:
    """The text of the page with the tables that the stored reports give."""
    text = PAGE.read_text(encoding="utf-8")
    parts = {"table": table(json.loads(REPORT.read_text(encoding="utf-8")))}
    studies = json.loads(SERVED.read_text(encoding="utf-8")) if SERVED.is_file() else {}
    for study in studies.values():
        check_stamp(study)
    parts["measured"] = measured(studies)
    for name, content in parts.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}{content}{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("report", nargs="?", type=Path, help="of the clients' tests, by pytest")
    report = parser.parse_args().report
    if report is not None:
        text = json.dumps(read(report), indent=1)
        REPORT.write_text(text + "\n", encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
