"""Small multiple-choice tasks in local files, and their accuracies by hand."""

import json

import torch
from pico_data import WORDS

from stat_repro.evaluation.zero_shot_tasks import load_tasks

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}, train: {train}}}
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: label
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
metadata: {{version: 3}}
"""
QUESTIONS = [
    {
        "question": " ".join(WORDS[i : i + 3]),
        "choices": [WORDS[(7 * i) % 40], f"{WORDS[(5 * i) % 40]} {WORDS[i]} w1", WORDS[39 - i]],
        "label": i % 3,
    }
    for i in range(16)
]
QUESTIONS, SOLVED = QUESTIONS[:12], QUESTIONS[12:]


def write_tasks(folder):
    """A folder with the tasks `mine` and `other`."""
    folder.mkdir()
    train = folder / "solved.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in SOLVED))
    for name, rows in (("mine", QUESTIONS), ("other", QUESTIONS[:5])):
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data, train=train))
    return folder


def write_generating(folder, sampled=False, tokens=1):
    """A task `made` of 100 questions, whose answers are generated."""
    folder.mkdir()
    rows = [{"question": WORDS[i % 40], "answer": WORDS[i % 40]} for i in range(100)]
    data = folder / "made.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "made.yaml").write_text(
        f"""\
task: made
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_gen_toks: {tokens}, do_sample: {str(sampled).lower()}, temperature: 3.0}}
metric_list: [{{metric: exact_match}}]
"""
    )
    return load_tasks(("made",), str(folder), 0)


def by_hand(model, tokenizer, questions):
    """acc and acc_norm: the choice with the largest log-likelihood, as it is or per character."""
    right = torch.zeros(2)
    for question in questions:
        context = tokenizer(question["question"])["input_ids"]
        sums = []
        for choice in question["choices"]:
            ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                inputs = torch.tensor([context + ids], device=model.device)
                logits = model(input_ids=inputs).logits[0, :-1]
            log_p = logits.cpu().log_softmax(-1)[len(context) - 1 :]
            sums.append(float(log_p.gather(1, torch.tensor(ids)[:, None]).sum()))
        lengths = torch.tensor([len(choice) for choice in question["choices"]])
        scores = torch.tensor(sums)
        right += torch.stack([scores.argmax(), (scores / lengths).argmax()]) == question["label"]
    return (right / len(questions)).tolist()
