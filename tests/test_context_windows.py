"""Windows of questions and contexts: what they cover, where the answer is, batches."""

import pytest
import torch
from pico_data import WORDS, word_tokenizer
from squad_examples import question
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from stat_repro.data.batching import padded_batches
from stat_repro.data.context_windows import QUESTION_TOKENS, context_windows
from stat_repro.data.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")


def windows_of(questions, max_length, stride, tokenizer=None):
    return context_windows(tokenizer or word_tokenizer(), questions, max_length, stride)


def test_windows_cover_the_context_and_share_the_stride():
    tokenizer = word_tokenizer()
    context = "  ".join(WORDS[:20])
    long, short = question(context, " w1 w2 ", "w7"), question("w3 w4", "w9 w9 w9", "w4")
    windows = windows_of([long, short], 12, 3, tokenizer)
    # [CLS] w1 w2 [SEP] <7 of the context> [SEP]: steps of 7 - 3 = 4 tokens.
    assert windows.question.tolist() == [0, 0, 0, 0, 0, 1]
    assert [len(window["input_ids"]) for window in windows.encoded] == [12, 12, 12, 12, 9, 8]
    assert windows.first.tolist() == [4, 4, 4, 4, 4, 5]
    for number, owner in enumerate(windows.question):
        source = (long, short)[owner]
        ids = windows.encoded[number]["input_ids"][windows.first[number] : -1]
        words = [source.context[start:stop] for start, stop in windows.offsets[number]]
        assert tokenizer.convert_ids_to_tokens(ids) == words
        begin = 4 * number if owner == 0 else 0
        assert words == source.context.split()[begin : begin + 7]
    assert windows.questions_cut == 0


def test_answer_tokens_are_those_of_the_answer_or_the_first_token():
    context = " ".join(WORDS[:20])
    windows = windows_of([question(context, "w1 w2", "w5 w6 w7")], 12, 3)
    start = context.index("w5")
    span = (start, start + len("w5 w6 w7"))
    # Windows of w0-w6, w4-w10, w8-w14...: whole only in the second, at 4 + 1 to 4 + 3.
    assert [windows.answer_tokens(w, span) for w in range(3)] == [(0, 0), (5, 7), (0, 0)]
    assert windows.answer_tokens(1, None) == (0, 0)
    # Characters inside words: all words that they touch.
    assert windows.answer_tokens(1, (start + 1, start + 4)) == (5, 6)


@pytest.mark.parametrize("answer", ["€", "5 €", "€ in", "é", "costs"])
def test_all_tokens_of_a_character_belong_to_the_answer(answer):
    pieces = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    inner.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    context = "It costs 5 € in a café."
    span = (context.index(answer), context.index(answer) + len(answer))
    windows = windows_of([question(context, "How much?")], 64, 4, tokenizer)
    start, end = windows.answer_tokens(0, span)
    assert tokenizer.decode(windows.encoded[0]["input_ids"][start : end + 1]).strip() == answer


def test_long_questions_are_cut_and_counted():
    text = " ".join(["w5"] * (QUESTION_TOKENS + 9))
    exact = " ".join(["w5"] * QUESTION_TOKENS)
    windows = windows_of([question("w3 w4", text, "w4"), question("w3 w4", exact, "w4")], 80, 3)
    assert windows.questions_cut == 1
    assert windows.encoded[0] == windows.encoded[1]
    assert windows.first[0] == QUESTION_TOKENS + 2


def test_windows_that_cannot_be_are_refused():
    asked = question("w3 w4", "w1 w2 w5", "w4")
    with pytest.raises(DataError, match="leaves 4 tokens for the context beside a question of 3"):
        windows_of([asked], 10, 4)
    assert len(windows_of([asked], 10, 3).encoded) == 1
    with pytest.raises(DataError, match="at least one question"):
        windows_of([], 10, 3)
    with pytest.raises(DataError, match="one token; got ' ' for the question 'second'"):
        windows_of([asked, question(" ", "w1", name="second")], 10, 3)
    with pytest.raises(DataError, match=r"max_length=10 .* expected more than .*stride=10, which"):
        windows_of([asked], 10, 10)


def test_tokenizers_that_cannot_do_it_are_refused():
    class Slow(PreTrainedTokenizerFast):
        @property
        def is_fast(self):
            return False

    asked = [question("w3 w4", "w1", "w4")]
    with pytest.raises(DataError, match="needs a fast tokenizer"):
        windows_of(asked, 10, 3, Slow(tokenizer_object=word_tokenizer().backend_tokenizer))
    bare = word_tokenizer()
    bare.backend_tokenizer.post_processor = None
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare.backend_tokenizer)
    with pytest.raises(DataError, match="special token in front of the question"):
        windows_of(asked, 10, 3, tokenizer)


def test_batches_hold_every_window_once_on_either_side():
    asked = [question(" ".join(WORDS[:n]), "w1", "w0") for n in (5, 30, 9)]
    for side in ("left", "right"):
        tokenizer = word_tokenizer(side=side)
        windows = windows_of(asked, 14, 2, tokenizer)
        batches = padded_batches(tokenizer, windows.encoded, 3)
        assert sorted(n for numbers, _ in batches for n in numbers) == list(
            range(len(windows.encoded))
        )
        for numbers, batch in batches:
            assert torch.equal(
                batch["attention_mask"].sum(1),
                torch.tensor([len(windows.encoded[n]["input_ids"]) for n in numbers]),
            )
