"""What nobody should give to the commands, and what is said of it; docs/trust.md shows this table.

A case is typed in a working folder in which `in/` holds a model, texts, tables and records, good
ones and damaged ones (see test_bad_inputs.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import get_type_hints

from bad_calls import CALLS
from bad_commands import COMMANDS, COMMANDS_USAGE

from stat_repro.config import RunConfig


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        command: Who gets it: `run.py`, `data` (its data is loaded too), `Python` or a command.
        given: The arguments.
        says: What its error says, a regular expression.
        status: The exit status.
    """

    command: str
    given: tuple[str, ...]
    says: str
    status: int = 1


def _cases(command: str, table: str, status: int = 1) -> Iterator[Case]:
    """Lines of `arguments | what is said`."""
    for line in filter(None, map(str.strip, table.splitlines())):
        given, _, says = line.partition(" | ")
        yield Case(command, tuple(given.split()), says.strip(), status)


def _of_every_key(section: type, prefix: str = "") -> Iterator[Case]:
    """Of every key of the schema: a value of another type, a word that is no choice, too little."""
    types = get_type_hints(section)
    for one in fields(section):
        key, kind = f"{prefix}{one.name}", types[one.name]
        if is_dataclass(kind):
            yield from _of_every_key(kind, f"{key}.")
            continue
        wrong = "{a:1}" if "str" in str(kind) else "much"
        yield Case("run.py", (f"++{key}={wrong}",), rf"(?s){one.name}.*(much|dict|a: ?1)")
        if "choices" in one.metadata:
            yield Case("run.py", (f"{key}=magic",), rf"{key}: expected one of .*got 'magic'")
        if "low" in one.metadata:
            low = one.metadata["low"] - 1
            given = f"[{low}]" if "list" in str(kind) else low
            yield Case("run.py", (f"{key}={given}",), rf"{key}: expected .*at least.*got {low}")


_RUN = r"""
rato=0.3 | rato
+rato=0.3 | unknown key rato; valid here: model, dataset
+pruning.rigde=1 | unknown key pruning.rigde; valid here: method
model=bert_tiny | bert_tiny
dataset=imdb | imdb
pruning=magic | magic
+experiment=x | experiment
sweep=tabel1 | tabel1
study=${nope} | 'nope' not found
model=hf | missing value: give model.path=<value>
ratio=1.0 | ratio: expected 0 <= ratio < 1 .* got 1.0
ratio=-0.1 | ratio: expected 0 <= ratio < 1 .* got -0.1
ratio=nan | ratio: expected 0 <= ratio < 1 .* got nan
round_to=0 | round_to: expected a value of at least 1; got 0
study=a/b | study: expected letters, digits
study=../x | study: expected letters, digits
study=speed | study=speed: kept for .*; choose another name
model.name=org/model | model.name: expected letters, digits
dataset.name=../x | dataset.name: expected letters, digits
dataset.held_out=0 | dataset.held_out: expected a value of more than 0 and less than 1; got 0
dataset.held_out=1 | dataset.held_out: expected a value of more than 0 and less than 1; got 1
dataset.calibration_split=test | expected two different parts
finetune.warmup_fraction=2 | warmup_fraction: expected a value of at least 0 and at most 1; got 2
finetune.learning_rate=0 | finetune.learning_rate: expected a value of more than 0; got 0
recovery.learning_rate=0 | recovery.learning_rate: expected a value of more than 0; got 0
recovery.temperature=0 | recovery.temperature: expected a value of more than 0; got 0
recovery.warmup_fraction=2 | warmup_fraction: expected a value of at least 0 and at most 1; got 2
recovery=finetune dataset=squad | recovery=distill
recovery=lora dataset=stsb_similarity | expected another dataset.task; got similarity
recovery=distill dtype=bfloat16 | expected dtype=float32 or float64; got bfloat16
cost.batch_sizes=[] | cost.batch_sizes: expected at least one batch size; got none
evaluation.zero_shot.tasks=[arc_easy] | expected dataset.task=language_modeling
dataset=nyt_editorials evaluation.zero_shot.shots=1 | beside include, examples or shots; got none
dataset.window=64 | does not read it; it is for language_modeling
dataset.answers.stride=64 | dataset.answers: expected its default .* it is for question_answering
dataset.calibration_split=test dataset.calibration_corpus=c4 | dataset.calibration_corpus: expected
dataset=squad dataset.label_column=x | classification, regression, similarity$
dataset=nyt_editorials dataset.max_length=64 | dataset.max_length: expected its default
recovery=finetune recovery.temperature=2 | recovery.temperature=2.0 is an option of distill
recovery=distill recovery.rank=8 | expected recovery.method=lora; got distill
dataset=nyt_editorials evaluation.split=validation | has only a test part; got 'validation'
calibration.sketch=gaussian | expected calibration.statistics=sketch; got gram
calibration.sketch_size=64 | expected calibration.statistics=sketch; got gram
calibration.engine=layers pruning=flap | engine=layers serves pruning.method=stat; got flap
calibration.engine=layers calibration.statistics=exact | serves calibration.statistics=gram
pruning.neuron_mac_share=0 | mac_share: expected a value of more than 0 and less than 1; got 0
pruning.neuron_mac_share=1 | mac_share: expected a value of more than 0 and less than 1; got 1
pruning.head_bonus=0 | pruning.head_bonus: expected a value of more than 0; got 0
pruning.ridge=nan | pruning.ridge: expected a finite value of at least 0; got nan
pruning.allocation=stat | for method=stat they are allocation=global
pruning.refit=true | is an option of stat_plus: expected method=stat_plus
pruning=stat_authors pruning.allocation=uniform | only allocation=global; got
pruning=stat_authors round_to=8 | expected round_to=1; got 8
pruning=stat_authors pruning.recipe=decoder | expected recipe=auto or encoder; got recipe=decoder
pruning=flap pruning.ridge=0.1 | needs pruning.correction=lstsq, affine, scale
pruning.correction=none pruning.ridge=0.1 | got correction=none
pruning=random pruning.recipe=decoder | pruning.recipe=decoder is an option of stat
pruning=fisher pruning.balance_factor=1 | expected method=stat or allocation=stat
pruning=flap pruning.head_bonus=1 | got method=flap, allocation=global
pruning=flap pruning.authors_compat=true | only method=stat; got method=flap
pruning=shortgpt pruning.correction=bias | only correction=none; got
pruning=shortgpt pruning.allocation=uniform | only allocation=global; got
pruning=shortgpt pruning.min_units=1 | only min_units=0; got min_units=1
pruning=shortgpt pruning.neuron_mac_share=0.5 | only neuron_mac_share=None; got
pruning=flap calibration.statistics=sketch | sketch serves pruning.method=stat; got method=flap
pruning.correction=affine calibration.statistics=sketch | serves pruning.correction=lstsq, none
pruning=fisher dataset=squad | expected another dataset.task; got question_answering
"""

_DATA = r"""
dataset=table_file dataset.test=in/a.csv | dataset.train
dataset=table_file dataset.train=in/none.csv dataset.test=in/a.csv | none.csv
dataset=table_file dataset.train=in dataset.test=in/a.csv | in: expected a file
dataset=table_file dataset.train=in/a.csv dataset.test=in/empty.csv | empty.csv
dataset=table_file dataset.train=in/a.csv dataset.test=in/binary.csv | binary.csv
dataset=table_file dataset.train=in/a.csv dataset.test=in/a.exe | a.exe
dataset=table_file dataset.train=in/a.csv dataset.test=in/a.csv | dataset.t
dataset=table_file dataset.train=in/a.csv dataset.test=in/cut.jsonl | cut.jsonl
dataset=table_file dataset.train=in/a.csv dataset.test=in/cut.parquet | cut.parquet
dataset=table_file dataset.train=in/a.csv dataset.test=in/holes.csv | holes.csv
dataset=table_file dataset.train=in/a.csv dataset.test=in/other.csv | label
dataset=table_file dataset.train=in/one.csv dataset.test=in/a.csv | at least two classes
dataset=table_file dataset.train=in/a.csv dataset.test=in/b.csv dataset.text_column=x | 'x'
dataset=table_file dataset.train=in/a.csv dataset.test=in/b.csv dataset.label_column=x | 'x'
dataset=table_file dataset.train=in/a.csv dataset.test=in/b.csv dataset.text_pair_column=x | 'x'
dataset=table_file dataset.train=in/a.csv dataset.test=in/b.csv dataset.task=regression | number
dataset=text_file dataset.train=in/none.txt dataset.test=in/a.txt | dataset.train: expected a file
dataset=text_file dataset.join="\n" | dataset.join: expected line breaks; got a backslash
dataset=text_file dataset.train=in dataset.test=in/a.txt | dataset.train: expected a file
dataset=text_file dataset.train=in/a.txt dataset.test=in/empty.txt | dataset.test: expected text
dataset=text_file dataset.train=in/a.txt dataset.test=in/empty.csv | empty.csv: expected a table
dataset=text_file dataset.train=in/a.txt dataset.test=in/binary.txt | is not UTF-8 text
dataset=text_file dataset.train=in/a.txt dataset.test=in/binary.csv | cannot be read as csv
dataset=text_file dataset.train=in/a.txt dataset.test=in/a.txt | expected two different texts
dataset=text_file dataset.train=in/a.txt | dataset.test: expected the file with the evaluation text
dataset=text_file dataset.train=in/a.txt dataset.test=in/b.csv dataset.held_out=0.2 | no data
dataset=text_file dataset.train=in/a.csv dataset.held_out=0.2 dataset.text_column=x | 'x'
dataset=table_file dataset.train=in/a.csv dataset.test=in/b.csv dataset.held_out=0.2 | no other file
dataset=table_file dataset.train=in/a.csv dataset.held_out=0.01 | rows for both parts
dataset=sst2 dataset.path=in/none | dataset.path=in/none
dataset=sst2 dataset.path=in/a.csv | expected a folder with
dataset=sst2 dataset.path=in/texts | dataset.path=.*texts: expected
dataset=sst2 dataset.path=null | got null
dataset=sst2 dataset.path=in dataset.source=glue:imdb | dataset.source: expected one of
dataset=sst2 dataset.path=in dataset.task=regression | is a classification task; got regression
dataset=squad dataset.path=in/none | dataset.path=in/none
dataset=squad dataset.path=null | got null
dataset=squad dataset.path=in/cut.json dataset.held_out=0.5 | cut.json
dataset=squad dataset.path=in/list.json dataset.held_out=0.5 | list.json
dataset=squad dataset.path=in/texts | dataset.path=.*texts: expected
dataset=wikitext2 dataset.path=in/none | dataset.path=in/none
dataset=wikitext2 dataset.path=in/texts dataset.source=corpus:imdb | expected one of wikitext2
dataset=wikitext2 dataset.path=in/a.exe | a.exe: expected text or a table
"""

_SHARDED = r"""
in/none out --text in/a.txt --window 8 --examples 2 | in/none
in/texts out --text in/a.txt --window 8 --examples 2 | in/texts
in/llama out --text in/none.txt --window 8 | --text: expected a file
in/llama out --text in --window 8 | --text: expected a file
in/llama out --text in/empty.csv --window 8 | --text: expected text
in/llama out --text in/binary.csv --window 8 | is not UTF-8 text
in/llama out --text in/a.txt --window 8 --examples 1000 | --examples: expected at most
in/llama out --text in/a.txt --window 8 --examples 2 --seed 4294967296 | --seed: expected a value
in/llama in/texts --text in/a.txt --window 8 --examples 2 | in use
in/llama out --text in/a.txt --window 8 --examples 2 --device tpu | device
in/llama out --text in/a.txt --window 8 --examples 2 --spill none | spill=none: expected an existing
in/llama out --text in/a.txt --window 8 --examples 2 --ratio 0.999 | ratio=0.999 leaves
in/llama out --text in/a.txt --window 65 | --window: expected at most 64 tokens
in/cut out --text in/a.txt --window 8 --examples 2 | expected a safetensors file
in/nothing out --text in/a.txt --window 8 --examples 2 | in/nothing
"""

_SHARDED_USAGE = r"""
in/llama out | the following arguments are required: --text
in/llama --text in/a.txt | the following arguments are required: output
in/llama in/a.txt --text in/a.txt | expected a folder that can be written
in/llama out --text in/a.txt --ratio 1 | expected 0 <= ratio < 1; got 1
in/llama out --text in/a.txt --ratio much | expected 0 <= ratio < 1; got much
in/llama out --text in/a.txt --ratio nan | expected 0 <= ratio < 1; got nan
in/llama out --text in/a.txt --examples 0 | expected an integer of at least 1; got 0
in/llama out --text in/a.txt --window 1 | expected an integer of at least 2; got 1
in/llama out --text in/a.txt --batch-size 0 | expected an integer of at least 1; got 0
in/llama out --text in/a.txt --round-to 0 | expected an integer of at least 1; got 0
in/llama out --text in/a.txt --seed -1 | expected an integer of at least 0; got -1
in/llama out --text in/a.txt --dtype int8 | invalid choice: 'int8'
in/llama out --text in/a.txt --allocation local | invalid choice: 'local'
in/llama out --text in/a.txt --rigde 1 | unrecognized arguments
"""

_BENCH = r"""
tiny --device tpu | device
tiny --device cuda:99 | device
tiny --length 9 --ratio 0.999 --repeats 1 --warmup 0 --authors-tokens 0 | ratio=0.999 leaves
"""

_BENCH_USAGE = r"""
enormous | invalid choice: 'enormous'
tiny --repeats 0 | expected an integer of at least 1; got 0
tiny --warmup -1 | expected an integer of at least 0; got -1
tiny --ratio 1 | expected 0 <= ratio < 1; got 1
tiny --sweep 0.1,2 | expected 0 <= ratio < 1; got 2
tiny --sweep 0.1,0.2 --engine layers | --sweep: expected --engine model
tiny --width 7 | expected a multiple of
tiny --results in/a.txt | expected a folder that can be written
tiny --dtype int8 | invalid choice: 'int8'
sharded --layers 0 | expected an integer of at least 1; got 0
sharded --threads 0 | expected an integer of at least 1; got 0
sharded --dtype int8 | invalid choice: 'int8'
sharded --width 62 --heads 4 | --width 62: expected a multiple of --heads 4
sharded --width 64 --heads 4 --groups 3 | --heads 4: expected a multiple of --groups 3
sharded --work in/a.txt | expected a folder that can be written
"""

_ASSETS = r"""
bert | asset: expected names among .* got bert
minilm tweets2 | got tweets2
"""

_BUILD = r"""
--results in/none | no table or figure was built
--results in/records --study nope | study 'nope': not found
--results in/records --study ../x | study '../x': not found
--results in/records --study damaged | damaged
--results in/records --study good --reference nope | reference: expected
"""

_BUILD_USAGE = r"""
--results in/records --out in/a.txt | expected a folder that can be written
--results in/records --jobs -1 | expected an integer of at least 0; got -1
--results in/records --claims in/claims.json | --claims: expected only together with --report
--results in/records --report out --claims in/list.json | expected a file that docs/claims.py wrote
--results in/records --report out --claims in/none | expected a file that docs/claims.py wrote
--studies good | unrecognized arguments
"""

CASES: tuple[Case, ...] = (
    *_of_every_key(RunConfig),
    *_cases("run.py", _RUN),
    *_cases("data", _DATA),
    *_cases("stat_repro.sharded", _SHARDED),
    *_cases("stat_repro.sharded", _SHARDED_USAGE, 2),
    *_cases("stat_repro.bench", _BENCH),
    *_cases("stat_repro.bench", _BENCH_USAGE, 2),
    *_cases("stat_repro.assets", _ASSETS),
    *_cases("stat-repro", COMMANDS),
    *_cases("stat-repro", COMMANDS_USAGE, 2),
    *_cases("paper_figures/build.py", _BUILD),
    *_cases("paper_figures/build.py", _BUILD_USAGE, 2),
    *_cases("Python", CALLS),
)
