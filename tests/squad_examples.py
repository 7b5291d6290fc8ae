"""Questions about made-up contexts."""

import json

from pico_data import WORDS

from stat_repro.data.squad_files import Answer, Question
from stat_repro.metrics.answers import squad_metrics, squad_scores


def question(context, text, *answers, title="t", name="q"):
    found = tuple(Answer(answer, context.index(answer)) for answer in answers)
    return Question(name, title, context, text, found)


def write_squad(path, version="1.1", articles=6):
    """The official layout; in 2.0 the last of every article's four questions has no answer."""
    data = []
    for article in range(articles):
        words = [WORDS[(7 * article + 3 * number) % len(WORDS)] for number in range(8)]
        context = " ".join(words)
        entries = []
        for number in range(4):
            word = words[number + 1]
            answers = [{"text": word, "answer_start": context.index(f" {word}") + 1}]
            entry = {"id": f"{article}-{number}", "question": words[number], "answers": answers}
            if version == "2.0":
                entry["is_impossible"] = number == 3
                entry["answers"] = [] if number == 3 else answers
            entries.append(entry)
        paragraph = {"context": context, "qas": entries}
        data.append({"title": f"t{article}", "paragraphs": [paragraph]})
    prefix = "v" if version == "2.0" else ""
    path.write_text(json.dumps({"version": f"{prefix}{version}", "data": data}))
    return path


def metrics_of(predictions, references, version="1.1"):
    """The metrics of answers."""
    return squad_metrics(squad_scores(predictions, references, version), references, version)
