"""The table of docs/serving.md, from the report of the clients' tests.

python -m pytest tests -m clients --junitxml=clients.xml
python docs/serving.py clients.xml
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

PAGE = Path(__file__).with_name("serving.md")
START, END = "<!-- table -->\n", "<!-- end of table -->"
# Test, what it shows, and the package whose version was tried.
CLIENTS = {
    "test_torchao_int8": ("torchao, int8 weights, saved and loaded", "torchao"),
    "test_quanto_int8": ("quanto, int8 weights", "optimum-quanto"),
    "test_bitsandbytes_int8": ("bitsandbytes, int8", "bitsandbytes"),
    "test_torch_quantize_dynamic": ("quantize_dynamic", "torch"),
    "test_fully_sharded_data_parallel": ("FSDP2, one training step", "torch"),
    "test_distributed_data_parallel": ("DistributedDataParallel", "torch"),
    "test_peft": ("PEFT, DoRA: default targets and all Linears, merged", "peft"),
    "test_quantised_cache": ("quantised cache", "transformers"),
    "test_flex_attention": ("flex attention", "transformers"),
    "test_onnxruntime_gives_the_logits_of_transformers": ("ONNX", "onnxruntime"),
    "test_llama_cpp_gives_the_logits_and_tokens_of_transformers": (
        "llama.cpp (GGUF): logits, greedy text, tokens",
        "llama-cpp-python",
    ),
    "test_smollm2_pruned_quantised_and_served": (
        "llama.cpp: SmolLM2, also Q8_0 and Q4_K_M",
        "llama-cpp-python",
    ),
}


def table(report: Path) -> str:
    """Markdown with a row per client: version, architectures, cases passed of those run."""
    cases: dict[str, list[tuple[str, str]]] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # our own pytest wrote it
        name, _, parameters = case.get("name", "").partition("[")
        kinds = {child.tag for child in case}
        outcome = "skipped" if "skipped" in kinds else "failed" if kinds else "passed"
        parts = re.split(r"[-\]]", parameters)
        place = 0 if name.startswith("test_llama") else -2  # pytest puts the last parameter first
        cases.setdefault(name, []).append((outcome, parts[place] if len(parts) > 1 else ""))
    rows = ["| client | package, version | architectures | passed |", "| --- | --- | --- | --- |"]
    for name, (what, package) in CLIENTS.items():
        done = [case for case in cases.get(name, []) if case[0] != "skipped"]
        passed = sum(outcome == "passed" for outcome, _ in done)
        models = sorted({model for outcome, model in done if outcome == "passed" and model})
        shown = ", ".join(models) or "SmolLM2"
        rows.append(
            f"| {what} | {package} {version(package)} | {shown} | {passed} of {len(done)} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    text = f"{before}{START}{table(Path(sys.argv[1]))}{END}{rest.partition(END)[2]}"
    PAGE.write_text(text, encoding="utf-8")
