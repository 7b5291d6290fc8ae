"""The official scores; all expected values worked out by hand from the scripts' definitions."""

import pytest
from squad_examples import metrics_of

from stat_repro.metrics.answers import exact_match, f1_score, normalised


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Broncos", "broncos"),
        ("a  an the A An THE", ""),
        ("U.S.A.", "usa"),
        ("Another theory", "another theory"),  # an article inside a word stays
        ("an-apple", "anapple"),  # punctuation goes first and joins
        ("24\u201310", "24\u201310"),  # a dash that is not ASCII stays
        ('"The Black Cloister,"', "black cloister"),
        ("\tSanta Clara,\n California\xa0", "santa clara california"),
        ("the_end", "theend"),
        ("...", ""),
    ],
)
def test_normalisation(text, expected):
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "exact", "f1"),
    [
        ("Denver Broncos", "the denver broncos!", 1, 1),
        ("Broncos", "Denver Broncos", 0, 2 / 3),  # precision 1, recall 1/2
        ("Denver Broncos of Denver", "Denver Broncos", 0, 2 / 3),  # 2 of 4, 2 of 2
        ("Denver Denver", "Denver Broncos", 0, 1 / 2),  # a repeated word counts once here
        ("New York, New York", "new york new jersey", 0, 3 / 4),  # new twice, york once
        ("Carolina", "Denver", 0, 0),
        ("", "Denver", 0, 0),
    ],
)
@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_scores_of_one_answer(prediction, reference, exact, f1, version):
    assert exact_match(prediction, reference) == exact
    assert f1_score(prediction, reference, version) == pytest.approx(f1)


def test_the_versions_differ_where_nothing_is_left():
    assert exact_match("The", "a") == 1
    assert f1_score("The", "a", "1.1") == 0
    assert f1_score("The", "a", "2.0") == 1
    assert f1_score("The", "end", "2.0") == f1_score("end", "", "2.0") == 0


def test_the_best_of_several_references_counts_for_each_score():
    references = [["Levi's Stadium in the Bay", "Bay Area"], ["Gold"], ["24-10", "24 10"]]
    got = metrics_of(["the Bay Area, California", "silver", "2410"], references)
    # First: 2 of 3 words and 2 of 2 of the second reference, 4/5; third: punctuation joins.
    assert got == pytest.approx({"exact_match": 1 / 3, "f1": (4 / 5 + 0 + 1) / 3})


def test_unanswerable_questions():
    references = [["Rhine"], ["Main", "River Main"], [], []]
    got = metrics_of(["the Rhine", "", "", "Rhine"], references, "2.0")
    assert got == pytest.approx(
        {
            **{"exact_match": 2 / 4, "f1": 2 / 4},
            **{"has_answer_exact_match": 1 / 2, "has_answer_f1": 1 / 2},
            **{"no_answer_exact_match": 1 / 2, "no_answer_f1": 1 / 2},
        }
    )
    # References of which nothing is left do not count, unless there is no other.
    assert metrics_of(["Rhine"], [["the", "Rhine"]], "2.0")["f1"] == 1
    assert metrics_of([""], [["the", "Rhine"]], "2.0")["f1"] == 0
    assert metrics_of([""], [["the"]], "2.0")["has_answer_exact_match"] == 1
    assert "no_answer_f1" not in metrics_of(["Rhine"], [["Rhine"]], "2.0")


def test_no_answer_from_a_broken_model_is_wrong_everywhere():
    got = metrics_of([None, None], [["Rhine"], []], "2.0")
    assert set(got.values()) == {0.0}
    assert metrics_of([None, "Rhine"], [["Rhine"]] * 2)["f1"] == 1 / 2


def test_wrong_input_to_the_scores_is_refused():
    with pytest.raises(ValueError, match=r"expected version 1\.1 or 2\.0; got '2'"):
        metrics_of(["a"], [["a"]], "2")
    with pytest.raises(ValueError, match="got 1 predictions and 2 questions"):
        metrics_of(["a"], [["a"], ["b"]])
    with pytest.raises(ValueError, match="got 0 predictions"):
        metrics_of([], [])
    with pytest.raises(ValueError, match="a question without references"):
        metrics_of(["a"], [[]])
