"""Networks by name: their shapes, how many parameters they have, and that their states carry on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models import networks
from models.networks import Carried, EncoderDecoder, GruForecaster, LanguageModel, Recognizer


def parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def recurrent(gates: int, inputs: int, hidden: int) -> int:
    """Parameters of a layer: two matrices and two biases."""
    return gates * hidden * (inputs + hidden + 2)


LSTM, GRU = 4, 3


@pytest.mark.parametrize(
    ("build", "expected", "written_out"),
    [
        (networks.lstm_100_128, recurrent(LSTM, 100, 128) + 2 * recurrent(LSTM, 128, 128), 381_952),
        (networks.gru_100_128, recurrent(GRU, 100, 128) + 2 * recurrent(GRU, 128, 128), 286_464),
        (networks.blstm_100_128, 2 * (recurrent(LSTM, 100, 128) + 2 * recurrent(LSTM, 256, 128)), 1_026_048),
        (
            lambda: LanguageModel(10_000, 128, 1024),
            10_000 * 128 + recurrent(LSTM, 128, 1024) + 1025 * 10_000,
            16_256_784,
        ),
        (
            lambda: EncoderDecoder(1_000, 2_000),
            3_000 * 300 + 2 * (recurrent(LSTM, 300, 512) + 3 * recurrent(LSTM, 512, 512)) + 513 * 2_000,
            None,
        ),
        (
            lambda: Recognizer(29),
            2 * (recurrent(LSTM, 40, 256) + 4 * recurrent(LSTM, 512, 256))
            + 513 * 128
            + 3 * recurrent(LSTM, 128, 128)
            + 129 * 29,
            None,
        ),
        (GruForecaster, recurrent(GRU, 10, 64) + 2 * recurrent(GRU, 64, 64) + 65, None),
    ],
    ids=["lstm", "gru", "blstm", "language model", "encoder-decoder", "recognizer", "forecaster"],
)
def test_a_network_has_the_parameters_of_its_layers(
    build: Callable[[], nn.Module], expected: int, written_out: int | None
) -> None:
    assert parameters(build()) == expected
    assert written_out in (None, expected)


def ints(*shape: int, below: int = 11) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(0))


def test_the_language_models_last_state_is_the_next_batchs_first() -> None:
    torch.manual_seed(0)
    model, text = LanguageModel(11, 6, 8, 2), ints(3, 10)
    whole, end = model(text, model.initial(3))
    _, middle = model(text[:, :4], model.initial(3))
    parts, after = model(text[:, 4:], middle)
    assert whole.shape == (3, 11)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(after, end)


def test_a_detached_state_has_the_numbers_and_no_history() -> None:
    model = LanguageModel(11, 6, 8)
    _, after = model(ints(1, 5), model.initial(1))
    detached = after.detached()
    assert isinstance(detached, Carried)
    assert after.h.requires_grad
    assert not detached.h.requires_grad
    assert not detached.c.requires_grad
    assert torch.equal(detached.c, after.c)


def test_an_encoder_reads_no_padding() -> None:
    torch.manual_seed(0)
    model, source = EncoderDecoder(11, 11, 6, 8, 2), ints(2, 7)
    read = model.read(source, torch.tensor([7, 3]))
    alone = model.read(source[1:, :3], torch.tensor([3]))
    torch.testing.assert_close(read.h[:, 1:], alone.h)
    torch.testing.assert_close(read.c[:, 1:], alone.c)


def test_a_decoder_that_writes_token_by_token_says_what_it_says_of_the_whole_target() -> None:
    torch.manual_seed(0)
    model, source, target = EncoderDecoder(11, 11, 6, 8, 2), ints(2, 7), ints(2, 5)
    whole = model(source, torch.tensor([7, 4]), target)
    assert whole.shape == (2, 5, 11)
    state = model.read(source, torch.tensor([7, 4]))
    for at in range(5):
        logits, state = model.write(target[:, at : at + 1], state)
        torch.testing.assert_close(logits[:, 0], whole[:, at])


def test_the_recognizer_gives_classes_to_each_frame_and_feels_no_padding() -> None:
    torch.manual_seed(0)
    model = Recognizer(7, both_ways=8, both_layers=2, narrow=6, layers=2)
    frames = torch.randn(2, 9, 40)
    logits = model(frames, torch.tensor([9, 5]))
    assert logits.shape == (2, 9, 7)
    assert not logits[1, 5:].any()
    torch.testing.assert_close(logits[1:, :5], model(frames[1:, :5], torch.tensor([5])))


def test_the_forecaster_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    model, events = GruForecaster(), torch.randn(2, 6, 10)
    whole, end = model(events, torch.zeros(3, 2, 64))
    _, middle = model(events[:, :2], torch.zeros(3, 2, 64))
    rest, after = model(events[:, 2:], middle)
    assert whole.shape == (2, 6)
    torch.testing.assert_close(rest, whole[:, 2:])
    torch.testing.assert_close(after, end)
