"""What nobody should give to the commands of `stat-repro`; see bad_inputs.py."""

COMMANDS = r"""
prune in/none --data in/a.txt --out out | model.path=in/none
prune in/nothing --data in/a.txt --out out | in/nothing
prune in/cut --data in/a.txt --out out | in/cut|cut
prune in/llama --data in/none.txt --out out | --data: expected a file, or a data set among
prune in/llama --data in --out out | --data: expected a file, or a data set among
prune in/llama --data nope --out out --dry-run | --data: expected a file, or a data set among
prune in/llama --data in/a.txt --out in/texts | texts: expected a new or empty folder; got one
prune in/llama --data in/a.txt --out in/texts --dry-run | expected a new or empty folder
prune in/llama --data in/empty.csv --out out | empty.csv: expected a table; the file is empty
prune in/llama --data in/binary.csv --out out | binary.csv: cannot be read as csv
prune in/llama --data in/a.csv --text-column x --out out | expected a column 'x'
prune in/llama --data in/a.txt --ratio 0.999 --out out | ratio=0.999 leaves
prune in/llama --data in/a.txt --ratio 0.999 --out out --dry-run | ratio=0.999 leaves
prune in/llama --data in/a.txt --examples 1000 --out out | expected at most
prune in/llama --data in/a.txt --test in/a.txt --out out | expected two different texts
prune in/llama --data in/a.txt --test in/none.txt --out out | dataset.test: expected a file
prune in/llama --data in/a.txt --device tpu --out out | device
prune in/llama --data in/a.txt --seed 4294967296 --out out | and at most 4294967295; got 4294967296
prune in/llama --data in/a.txt --set rigde=1 --out out | rigde
prune in/llama --data in/a.txt --set ratio=2 --out out | ratio: expected 0 <= ratio < 1
prune in/llama --data in/a.txt --set recovery.steps=9 --out out | expected --heal distill, finetune
prune in/llama --data in/a.txt --set dataset.window=65 --out out | expected at most 64 tokens
eval in/llama --data in/none.csv | --data: expected a file, or a data set among
eval in/none --data in/a.txt | model.path=in/none
eval in/llama --data in/a.txt --dense in/none | model.path=in/none
show nope --results in/records | run 'nope': expected a run stored under in/records
show made_up --results in/none | expected a run stored under in/none
show in/records --results in/records | expected a run stored under
show damaged/pico --results in/records | damaged.*expected
runs --results in/records --study nope | study 'nope': not found
runs --results in/records --study ../x | study '../x': not found
runs --results in/records --study good --where rigde=1 | expected key=value .* got 'rigde'
runs --results in/records --study damaged | damaged
runs --results in/records --compare good/pico nope | run 'nope': expected
verify nope --all --results in/records | study 'nope': not found
verify ../x --all --results in/records | study '../x': not found
verify speed --all --results in/records | study speed holds no runs but measurements
verify damaged --all --results in/records | damaged
verify good --point nope --results in/records | run 'good/nope': expected a run stored under
verify good --point damaged/pico --results in/records | run 'good/damaged/pico': expected
verify good --random 2 --results in/records | --random: expected at most 1, the points of good
verify good --all --seed 1 --results in/records | --seed: expected only together with --random
verify good --all --keep in/records/new --results in/records | --keep: expected a folder outside
"""

COMMANDS_USAGE = r"""
prune in/llama | the following arguments are required: --data, --out
prune in/llama --data in/a.txt --out in/a.txt | expected a folder that can be written
prune in/llama --data in/a.txt --out out --ratio 1 | expected 0 <= ratio < 1; got 1
prune in/llama --data in/a.txt --out out --method magic | invalid choice: 'magic'
prune in/llama --data in/a.txt --out out --heal magic | invalid choice: 'magic'
prune in/llama --data in/a.txt --out out --dtype int8 | invalid choice: 'int8'
prune in/llama --data in/a.txt --out out --round-to 0 | expected an integer of at least 1; got 0
prune in/llama --data in/a.txt --out out --examples 0 | expected an integer of at least 1; got 0
prune in/llama --data in/a.txt --out out --seed -1 | expected an integer of at least 0; got -1
eval in/llama | the following arguments are required: --data
show | the following arguments are required: run
runs --where | expected at least one argument
runs --compare good/pico | expected 2 arguments
runs nope | unrecognized arguments
verify --all | the following arguments are required: study
verify good | one of the arguments --point --random --all is required
verify good --random 0 | expected an integer of at least 1; got 0
verify good --random much | expected an integer of at least 1; got much
verify good --random 1 --all | argument --all: not allowed with argument --random
verify good --point pico --random 1 | argument --random: not allowed with argument --point
verify good --random 1 --seed -1 | expected an integer of at least 0; got -1
verify good --all --keep in/a.txt | expected a folder that can be written
"""
