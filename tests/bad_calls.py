"""Calls of Python that are refused: a part of the table of bad inputs (`bad_inputs`)."""

# Python; `bert` is a model, `small` it pruned at 0.3, `batches` its calibration examples.
CALLS = r"""
compress(bert, batches, ratio=1.0) | ratio: expected 0 <= ratio < 1 .* got 1.0
compress(bert, batches, ratio=-0.1) | ratio: expected 0 <= ratio < 1
compress(bert, batches, ratio=float("nan")) | ratio: expected 0 <= ratio < 1
compress(bert, batches, ratio=0.999) | ratio=0.999 leaves
compress(bert, batches, round_to=0) | round_to: expected a value of at least 1; got 0
compress(bert, batches, method="magic") | expected one of .*got 'magic'
compress(bert, batches, rigde=1) | unknown options rigde; valid: allocation
compress(bert, batches, allocation="best") | allocation: expected one of .*got 'best'
compress(bert, batches, correction="best") | correction: expected one of .*got 'best'
compress(bert, batches, statistics="best") | statistics: expected one of .*got 'best'
compress(bert, batches, engine="best") | engine: expected one of .*got 'best'
compress(bert, batches, ridge=-1.0) | ridge: expected a value of at least 0; got -1.0
compress(bert, batches, seed=-1) | seed: expected 0 to
compress(bert, batches, seed=2**32) | seed: expected 0 to
compress(bert, batches, spill="in") | expected engine=layers; got engine=model
compress(bert, batches, engine="layers", spill="none") | spill=none: expected an existing folder
compress(bert, batches, engine="layers", method="flap") | engine=layers serves
compress(bert, []) | holds no tokens: expected at least one batch
compress(bert, batches[0]) | expected an iterable of mappings
compress(bert, 7) | expected an iterable of mappings.* got one int
compress(bert, ["a text"]) | number 0: expected a mapping with input_ids
compress(bert, [{"input_ids": batches[0]["input_ids"][0]}]) | expected integers of shape
compress(bert, [{"input_ids": batches[0]["input_ids"] + 1000}]) | expected token ids from 0 to
compress(bert, [{"input_ids": batches[0]["input_ids"].double()}]) | expected integers of shape
compress(bert, batches, method="fisher") | labels
compress(Linear(3, 3), batches) | Linear
compress(bert, batches, calibration=calibrate(bert, batches[:1])) | got those of others
compress(bert, batches, calibration=calibrate(other, batches)) | of this model; got those of another
calibrate(bert, []) | holds no tokens
calibrate(bert, batches, statistics="best") | expected .*got 'best'
prune_model(bert, small.plan.from_json("{}"), ()) | plan
save_pruned(bert, "out", plan=small.plan, base_model="x") | expected a pruned model
save_pruned(small.model, "in/texts", plan=small.plan, base_model="x") | in use
save_pruned(small.model, "out", plan=whole.plan, base_model="x") | plan: expected .*as the model
load_plan("in/none") | expected the plan of a pruned model; no such file
load_plan("in/torn") | expected JSON
compress_checkpoint("in/none", "out", batches) | in/none
compress_checkpoint("in/llama", "in/texts", batches) | in use
compress_checkpoint("in/llama", "out", batches, dtype="int8") | dtype: expected one of float32
compress_checkpoint("in/llama", "out", batches, method="flap") | serves pruning.method=stat
"""
