"""Calibration batches are read once, and those that a model cannot read are refused by name."""

import copy

import pytest
import torch
from pico_models import VOCABULARY, pico_batches, pico_model
from torch.utils.data import DataLoader, IterableDataset

import stat_repro
from stat_repro.calibration.batches import CalibrationError, model_digest

PLUS = {"method": "stat_plus", "ratio": 0.4}


class Rows(IterableDataset):
    """Rows of batches, in another order in every pass."""

    def __init__(self, batches, *, shuffle):
        self.rows = [{k: v[i] for k, v in b.items()} for b in batches for i in range(4)]
        self.generator = torch.Generator().manual_seed(0) if shuffle else None

    def __iter__(self):
        order = range(len(self.rows))
        if self.generator is not None:
            order = torch.randperm(len(self.rows), generator=self.generator).tolist()
        return iter([self.rows[i] for i in order])


class Masked(list):
    """Batches in which other tokens are masked in every pass, in place as collators may do it."""

    def __iter__(self):
        for batch in super().__iter__():
            chosen = torch.rand(batch["input_ids"].shape) < 0.3
            batch["input_ids"][chosen] = 3
            yield batch


def same(one, other):
    first, second = one.model.state_dict(), other.model.state_dict()
    assert one.plan == other.plan
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def model():
    return pico_model("bert")


def test_a_shuffling_loader_is_read_once(model):
    """Every later pass was over other batches, compared with the first one by position."""
    rows = Rows(pico_batches(model), shuffle=True)
    loader = DataLoader(rows, batch_size=4)
    shuffled = stat_repro.compress(model, loader, **PLUS)
    rows.generator.manual_seed(0)
    same(shuffled, stat_repro.compress(model, list(loader), **PLUS))
    indexed = DataLoader(rows.rows, batch_size=4, shuffle=True, generator=rows.generator)
    rows.generator.manual_seed(1)
    shuffled = stat_repro.compress(model, indexed, **PLUS)
    rows.generator.manual_seed(1)
    same(shuffled, stat_repro.compress(model, list(indexed), **PLUS))


@pytest.mark.parametrize("method", ["stat", "stat_plus", "magnitude"])
def test_generators_and_streams_are_batches_too(model, method):
    batches = pico_batches(model)
    usual = stat_repro.compress(model, batches, ratio=0.4, method=method)
    streams = (iter(batches), DataLoader(Rows(batches, shuffle=False), batch_size=4))
    for stream in streams:
        same(usual, stat_repro.compress(model, stream, ratio=0.4, method=method))


def test_batches_that_change_between_passes_are_taken_as_they_were_first(model):
    torch.manual_seed(0)
    masked = stat_repro.compress(model, Masked(pico_batches(model)), **PLUS)
    torch.manual_seed(0)
    once = [{k: v.clone() for k, v in batch.items()} for batch in Masked(pico_batches(model))]
    same(masked, stat_repro.compress(model, once, **PLUS))


def test_a_calibration_of_other_batches_is_refused(model):
    batches = pico_batches(model)
    loader = DataLoader(Rows(batches, shuffle=True), batch_size=4)
    for statistics in (
        stat_repro.calibrate(model, loader),
        stat_repro.calibrate(model, batches[:2]),
        stat_repro.calibrate(model, list(reversed(batches))),
    ):
        with pytest.raises(CalibrationError, match=r"got those of others .*list\(loader\)"):
            stat_repro.compress(model, batches, calibration=statistics)
    # Statistics do not depend on labels.
    labelled = [{**batch, "labels": torch.tensor([0, 1, 1, 0])} for batch in batches]
    statistics = stat_repro.calibrate(model, iter(batches))
    stat_repro.compress(model, labelled, calibration=statistics, method="fisher")


def trained(model):
    weight = model.get_parameter("bert.encoder.layer.1.output.dense.weight")
    with torch.no_grad():
        weight += 1e-6 * weight


def one_bias(model):
    with torch.no_grad():
        model.get_parameter("bert.encoder.layer.0.attention.self.query.bias")[3] += 1e-4


def other_numbers(model):
    model.double()


def another(model):
    model.load_state_dict(pico_model("bert", seed=1).state_dict())


@pytest.mark.parametrize("change", [trained, one_bias, other_numbers, another])
def test_a_calibration_of_another_model_is_refused(change):
    model = pico_model("bert")
    batches = pico_batches(model)
    statistics = stat_repro.calibrate(model, batches)
    again = copy.deepcopy(model)
    again.config.name_or_path = "elsewhere"
    stat_repro.compress(again, batches, calibration=statistics)
    change(model)
    with pytest.raises(CalibrationError, match=r"of this model; got .*choose calibrate\(model"):
        stat_repro.compress(model, batches, calibration=statistics)


def test_a_large_matrix_is_not_sampled_along_one_column():
    model = torch.nn.Linear(4096, 4096, bias=False)
    model.config = pico_model("bert").config
    before = model_digest(model)
    with torch.no_grad():
        model.weight[:, 100:1100] += 1
    assert model_digest(model) != before


IDS = torch.full((2, 5), 7)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (None, "iterable of mappings, such as a list or a DataLoader; got one NoneType"),
        ({"input_ids": IDS}, "iterable of mappings.* got one dict"),
        ([], "at least one batch"),
        (iter([]), "an iterator is empty after its first pass"),
        (IDS, "number 0: expected a mapping .* got Tensor"),
        ([(IDS, IDS)], "number 0: expected a mapping .* got tuple"),
        (["some text"], "number 0: expected a mapping .* got str"),
        ([{"input_ids": IDS}, {"ids": IDS}], "number 1: .*needs the key input_ids; got ids"),
        ([{"input_ids": [[7, 8]]}], "key input_ids: expected a tensor; got list"),
        ([{"input_ids": IDS, "labels": [0, 1]}], "0: key labels: expected a tensor; got list"),
        ([{"input_ids": IDS[0]}], r"shape \(B, S\).*got \(5,\)"),
        ([{"input_ids": IDS[:0]}], r"at least one row.*got \(0, 5\)"),
        ([{"input_ids": IDS[:, :0]}], r"one token.*got \(2, 0\)"),
        ([{"input_ids": IDS.float()}], r"expected integers .*got \(2, 5\) torch.float32"),
        ([{"input_ids": IDS, "attention_mask": IDS[:, :4]}], "the shape of input_ids"),
        ([{"input_ids": IDS, "attention_mask": IDS}], "1 for tokens and 0 for padding; got .* 7.0"),
        (
            [{"input_ids": IDS, "attention_mask": torch.full((2, 5), float("-inf"))}],
            "1 for tokens and 0 for padding; got values from -inf",
        ),
        (
            [{"input_ids": torch.full((2, 5), VOCABULARY)}],
            f"from 0 to {VOCABULARY - 1}, .*got {VOCABULARY} .*resize_token_embeddings",
        ),
        ([{"input_ids": IDS - 8}], "token ids from 0 to .*; got -1 to -1"),
        ([{"input_ids": torch.full((1, 41), 7)}], "at most 40 tokens per row, .*; got 41"),
    ],
)
def test_batches_that_the_model_cannot_read_are_refused(model, batches, message):
    for call in (stat_repro.calibrate, stat_repro.compress):
        with pytest.raises(CalibrationError, match=message):
            call(model, batches)
