"""When the next commit is due."""

import pytest

from streamer.worker.rhythm import has_turn, until_commit_s


def test_a_commit_begins_an_interval_after_the_last_one_began() -> None:
    assert until_commit_s(0.03, 0.03, 0.1, behind=False) == pytest.approx(0.07)
    assert until_commit_s(0.1, 0.03, 0.1, behind=False) == 0.0


def test_commits_take_half_of_the_time_at_most() -> None:
    assert until_commit_s(0.25, 0.25, 0.1, behind=False) == pytest.approx(0.25)
    assert until_commit_s(0.5, 0.25, 0.1, behind=False) == 0.0


def test_a_worker_that_is_behind_commits_a_fifth_as_often() -> None:
    assert until_commit_s(0.1, 0.02, 0.1, behind=True) == pytest.approx(0.4)
    assert until_commit_s(0.5, 0.02, 0.1, behind=True) == 0.0


def test_commits_of_a_worker_that_is_behind_take_a_quarter_of_the_time_at_most() -> None:
    assert until_commit_s(0.2, 0.2, 0.1, behind=True) == pytest.approx(0.6)
    assert until_commit_s(0.8, 0.2, 0.1, behind=True) == 0.0


@pytest.mark.parametrize("behind", [False, True])
def test_a_commit_that_waited_for_a_log_that_was_away_does_not_put_the_next_one_off(behind: bool) -> None:
    assert until_commit_s(60.0, 60.0, 0.1, behind=behind) == 0.0


def test_a_worker_that_has_caught_up_commits_at_once_if_an_interval_has_passed() -> None:
    assert until_commit_s(0.15, 0.02, 0.1, behind=True) > 0.0
    assert until_commit_s(0.15, 0.02, 0.1, behind=False) == 0.0


def test_a_partition_with_nothing_to_publish_is_in_every_fifth_commit() -> None:
    assert [has_turn(number, quiet=True, awaited=False) for number in range(6)] == [True, *[False] * 4, True]
    assert all(has_turn(number, quiet=False, awaited=False) for number in range(6))


def test_while_reading_waits_for_commits_every_partition_is_in_each() -> None:
    assert all(has_turn(number, quiet=True, awaited=True) for number in range(6))
