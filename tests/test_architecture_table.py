"""The table of docs/architectures.md has every architecture, with the task heads that it has."""

from __future__ import annotations

from pathlib import Path

import transformers as hf

from stat_repro.models import modeling_stat

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architectures.md"
LETTERS = {
    hf.AutoModel: "M",
    hf.AutoModelForCausalLM: "C",
    hf.AutoModelForMaskedLM: "L",
    hf.AutoModelForSequenceClassification: "S",
    hf.AutoModelForTokenClassification: "T",
    hf.AutoModelForQuestionAnswering: "Q",
    hf.AutoModelForMultipleChoice: "X",
}


def test_every_architecture_has_its_row_with_its_heads() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "| `" in line]
    heads = {row[0].strip("`"): row[3].split() for row in rows}
    wanted = {
        config.model_type.removeprefix("stat_"): [LETTERS[auto] for auto in LETTERS if auto in made]
        for config, made in modeling_stat.AUTO_CLASSES.items()
    }
    assert heads == wanted
    assert all(len(row) == 6 and row[4] and row[5] for row in rows)
    relatives = {row[1].strip("`") for row in rows}
    assert relatives - {""} <= set(heads)
