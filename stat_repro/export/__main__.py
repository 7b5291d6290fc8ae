"""`python -m stat_repro.export FOLDER --format gguf`: a model in the form of another program."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stat_repro.entry import guarded
from stat_repro.export.errors import ExportError

_FORMATS = {"gguf": ".gguf", "onnx": ".onnx", "stock": "-stock", "decilm": "-decilm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Export one folder."""
    options = _parse(argv)
    return guarded(
        lambda: _export(options), lambda: "nothing was written; the same command starts again"
    )


def _export(options: argparse.Namespace) -> None:
    from stat_repro.export.decilm import write_decilm
    from stat_repro.export.gguf_file import write_gguf
    from stat_repro.export.onnx_file import write_onnx
    from stat_repro.export.stock import write_stock
    from stat_repro.models.loading import load_tokenizer
    from stat_repro.surgery.checkpoint import complete_folder
    from stat_repro.surgery.saved_tokenizer import has_tokenizer

    folder, name = options.folder.expanduser(), options.folder.resolve().name
    if not folder.is_dir():
        raise ExportError(f"{folder}: expected the folder of a saved model; got no such folder")
    out = (options.out or Path(f"{name}{_FORMATS[options.format]}")).expanduser()
    if options.quantise is not None and options.format != "gguf":
        raise ExportError(f"--quantise: expected --format gguf; got --format {options.format}")
    if _FORMATS[options.format].startswith(".") and out.exists():
        raise ExportError(f"--out: expected a new file; got {out}, which exists; choose another")
    if options.format == "gguf":
        write_gguf(folder, out, options.quantise)
    elif options.format == "onnx":
        write_onnx(folder, out)
    else:  # folders, to which the tokenizer belongs
        with complete_folder(out) as partial:
            (write_stock if options.format == "stock" else write_decilm)(folder, partial)
            if has_tokenizer(folder):
                load_tokenizer(folder).save_pretrained(partial)
    print(f"{out}: written, {_size(out) / 1e6:.1f} MB")


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="stat-repro export",
        description="Write a saved model, pruned or dense, in the form of another program.",
        epilog="example: stat-repro export pruned-smollm2 --format gguf --quantise Q8_0",
    )
    add: Any = parser.add_argument
    add("folder", type=Path, help="saved model: config.json, safetensors weights, tokenizer")
    add(
        "--format",
        required=True,
        choices=_FORMATS,
        help="gguf: llama.cpp; onnx: onnxruntime; stock: no code of this package; decilm: vLLM",
    )
    add("--quantise", choices=("Q8_0", "Q4_K_M"), help="type of the weights of a gguf file")
    add("--out", type=Path, metavar="PATH", help="file or folder to write (named after folder)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
