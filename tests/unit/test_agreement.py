"""How far a candidate agrees with the live model: matched by what was answered, counted once both have answered it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.codecs.messages import Alert, Body, Envelope, FinalTranscript, PartialTranscript, Prediction, StreamEvent
from streamer.observe.agreed import line_of, lines_of, plain
from streamer.observe.agreement import LIVE, MOST_WORDS, SHADOW, Agreement, Counts, Side
from streamer.records import TopicPartition

AUDIO = TopicPartition("audio", 0)
END = {AUDIO: 1000}


def message(body: Body, offset: int, kind: str, *, partition: int = 0) -> Envelope:
    return Envelope(f"audio/{partition}/{offset}/{kind}/0", "source", "type", "ann", "", "model", body)


def final(text: str, offset: int, **where: int) -> Envelope:
    return message(FinalTranscript("ann", 0, text, 0.0, 1.0, 1.0, ()), offset, "final", **where)


def event(name: str, offset: int) -> Envelope:
    assert name in ("started", "ended")
    return message(StreamEvent("ann", "started" if name == "started" else "ended", ""), offset, name)


def alert(offset: int, *, firing: bool = True) -> Envelope:
    return message(Alert("a", "ann", "firing" if firing else "resolved", "major", "", 0.9), offset, "alert")


def predicted(offset: int, *, expected: float, score: float | None = None) -> Envelope:
    return message(Prediction("ann", "", value=5.0, expected=expected, score=score), offset, "prediction")


def counted(live: Iterable[Envelope], shadow: Iterable[Envelope], begin: int = 0) -> Agreement:
    """All of one side, then all of the other, both answered to the end."""
    agreement = Agreement({AUDIO: begin})
    sides: list[tuple[Side, Iterable[Envelope]]] = [(LIVE, live), (SHADOW, shadow)]
    for side, messages in sides:
        for one in messages:
            agreement.see(side, one)
    agreement.settle(END)
    agreement.finish()
    return agreement


def test_the_same_words_at_the_same_places_agree() -> None:
    said = [final("please open the window", 7), event("ended", 9)]
    figures = counted(said, said).figures
    assert (figures.finals, figures.words, figures.word_error_rate) == (Counts(same=1), 4, 0.0)
    assert figures.finals.share_same == 1.0


def test_other_words_are_counted_as_edits_of_what_the_live_model_said() -> None:
    figures = counted([final("the cat sat", 7)], [final("the bat sat down", 7)]).figures
    assert (figures.finals, figures.wrong_words, figures.words) == (Counts(different=1), 2, 3)


def test_segments_that_are_cut_elsewhere_are_not_wrong_words() -> None:
    live = [final("one two", 3), final("three four", 6), event("ended", 9)]
    shadow = [final("one", 2), final("two three four", 6), event("ended", 9)]
    figures = counted(live, shadow).figures
    assert (figures.wrong_words, figures.words) == (0, 4)
    assert figures.finals == Counts(different=1, only_live=1, only_shadow=1)


def test_words_wait_for_a_place_where_both_sides_end_a_segment() -> None:
    agreement = Agreement()
    agreement.see(LIVE, final("one two", 3))
    agreement.see(SHADOW, final("one", 2))
    agreement.settle({AUDIO: 5})
    assert agreement.figures.words == 0
    agreement.see(LIVE, final("three", 6))
    agreement.see(SHADOW, final("two three", 6))
    agreement.settle({AUDIO: 7})
    assert (agreement.figures.wrong_words, agreement.figures.words) == (0, 3)


def test_streams_that_never_meet_are_compared_before_they_fill_the_memory() -> None:
    agreement = Agreement()
    for n in range(MOST_WORDS + 1):
        agreement.see(LIVE, final("word", 2 * n))
        agreement.see(SHADOW, final("word", 2 * n + 1))
    agreement.settle({AUDIO: 4 * MOST_WORDS})
    assert (agreement.figures.wrong_words, agreement.figures.words) == (0, MOST_WORDS + 1)


def test_a_message_is_alone_only_when_both_sides_have_answered_its_record() -> None:
    agreement = Agreement()
    agreement.see(LIVE, alert(7))
    agreement.settle({AUDIO: 7})
    assert agreement.figures.alerts == Counts()
    agreement.settle({AUDIO: 8})
    assert agreement.figures.alerts == Counts(only_live=1)


def test_alerts_are_the_same_when_they_change_at_the_same_record() -> None:
    live = [alert(1), alert(5, firing=False), alert(8)]
    shadow = [alert(1), alert(6, firing=False), alert(8, firing=False)]
    assert counted(live, shadow).figures.alerts == Counts(same=1, different=1, only_live=1, only_shadow=1)


def test_what_a_worker_says_of_itself_is_not_compared() -> None:
    partial = message(PartialTranscript("ann", 0, 3, "so far", 0.0, 1.0), 3, "partial")
    retention = alert(4)._replace(id="audio/0/4/retention/0")
    figures = counted([partial, retention], []).figures
    assert (figures.alerts, figures.finals) == (Counts(), Counts())


def test_predictions_differ_by_field_and_what_was_observed_is_no_prediction() -> None:
    live = [predicted(1, expected=2.0, score=0.5), predicted(2, expected=3.0, score=0.5)]
    shadow = [predicted(1, expected=2.5, score=0.5), predicted(2, expected=2.0)]
    figures = counted(live, shadow).figures
    assert figures.predictions == Counts(same=2)
    assert {name: (gap.mean, gap.maximum) for name, gap in figures.gaps.items()} == {
        "expected": (0.75, 1.0),
        "score": (0.0, 0.0),
    }


def test_outputs_of_any_model_are_compared_by_name() -> None:
    live = message(Prediction("ann", "", outputs={"y": [1.0, 2.0]}), 1, "prediction")
    shadow = message(Prediction("ann", "", outputs={"y": [1.0, 4.0]}), 1, "prediction")
    gap = counted([live], [shadow]).figures.gaps["outputs.y"]
    assert (gap.count, gap.mean, gap.maximum) == (2, 1.0, 2.0)


def test_what_was_answered_before_the_shadow_began_is_not_compared() -> None:
    assert counted([alert(3), alert(7)], [alert(7)], begin=5).figures.alerts == Counts(same=1)


def test_a_stream_that_the_shadow_joined_late_is_said() -> None:
    figures = counted([event("started", 1), alert(7)], [event("started", 6), alert(7)], begin=5).figures
    assert figures.joined_late == 1
    assert any("had begun before the shadow heard them" in line for line in lines_of(figures))


def test_an_empty_report_has_no_shares() -> None:
    figures = counted([], []).figures
    assert list(lines_of(figures)) == []
    assert line_of("speech", figures, "") == "shadow of speech: nothing to compare yet"
    assert line_of("speech", figures, "it broke") == "shadow of speech: ended: it broke"
    assert plain(figures)["word_error_rate"] is None


def test_what_waits_too_long_is_given_up_and_counted() -> None:
    agreement = Agreement()
    for n in range(3):
        agreement.see(LIVE, alert(n))
    agreement.give_up()
    assert (agreement.waiting(LIVE), agreement.figures.given_up) == (1, 2)


Said = st.dictionaries(st.integers(0, 30), st.sampled_from(["one", "two", "three"]), max_size=12)


@given(Said, Said, st.lists(st.booleans(), max_size=30), st.lists(st.integers(0, 31), max_size=4))
def test_neither_order_nor_repetition_nor_when_it_is_settled_changes_the_figures(
    live: dict[int, str], shadow: dict[int, str], turns: list[bool], settled: list[int]
) -> None:
    sides: dict[Side, list[Envelope]] = {
        LIVE: [final(text, offset) for offset, text in sorted(live.items())],
        SHADOW: [final(text, offset) for offset, text in sorted(shadow.items())],
    }
    whole = counted(sides[LIVE], sides[SHADOW]).figures
    agreement = Agreement()
    waiting = {side: list(messages) for side, messages in sides.items()}
    for turn in turns:
        side = LIVE if turn else SHADOW
        if waiting[side]:
            one = waiting[side].pop(0)
            agreement.see(side, one)
            agreement.see(side, one)
        ahead = min((int(m.id.split("/")[2]) for left in waiting.values() for m in left), default=31)
        for offset in settled:
            agreement.settle({AUDIO: min(offset, ahead)})
    for side, left in waiting.items():
        for one in left:
            agreement.see(side, one)
    agreement.settle(END)
    agreement.finish()
    assert agreement.figures == whole


@pytest.mark.parametrize("side", [LIVE, SHADOW])
def test_the_partitions_of_the_input_are_kept_apart(side: Side) -> None:
    agreement = Agreement()
    agreement.see(side, final("one", 3, partition=0))
    agreement.see(SHADOW if side == LIVE else LIVE, final("one", 3, partition=1))
    agreement.settle({AUDIO: 9, TopicPartition("audio", 1): 9})
    assert agreement.figures.finals == Counts(only_live=1, only_shadow=1)
