"""Questions about made-up contexts."""

from stat_repro.data.squad_files import Answer, Question


def question(context, text, *answers, title="t", name="q"):
    found = tuple(Answer(answer, context.index(answer)) for answer in answers)
    return Question(name, title, context, text, found)
