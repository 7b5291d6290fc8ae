"""How long compression takes, against its bare forward passes and against the authors' way.

`python -m stat_repro.bench bert_base` measures a shape with random weights and stores one record in
`results/speed/`.
"""
