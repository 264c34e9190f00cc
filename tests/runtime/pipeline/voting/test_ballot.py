"""The votes of one region: window, ties, hysteresis, and frames that do not vote."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from foldcam.runtime.model.vote import Vote
from foldcam.runtime.pipeline.voting import MARGIN, MOST_VOTES, Ballot


@pytest.fixture
def votes(make_answer):
    """The votes after each of some labels, given one second apart or at the times given."""

    def votes(labels, seconds: float = 100.0, times=None) -> list[Vote | None]:
        ballot = Ballot(seconds)
        times = range(len(labels)) if times is None else times
        return [
            ballot.add(float(now), float(now), make_answer(label))
            for label, now in zip(labels, times, strict=True)
        ]

    return votes


def test_one_frame_decides_alone(votes):
    assert votes(["owl"]) == [Vote("owl", 1.0, 1, 0.0)]


def test_a_single_other_frame_changes_nothing(votes):
    found = votes(["owl", "owl", "owl", "gull", "owl"])
    assert [vote.label for vote in found] == ["owl"] * 5
    assert found[3] == Vote("owl", 0.75, 4, 0.0)


def test_another_label_takes_over_once_it_leads_by_the_margin(votes):
    labels = ["owl"] * 4 + ["gull"] * 4
    found = votes(labels, seconds=5.5)
    shares = [(labels[max(0, n - 5) : n + 1].count("gull")) / min(n + 1, 6) for n in range(8)]
    leads = [2 * share - 1 >= MARGIN for share in shares]
    assert [vote.label == "gull" for vote in found] == leads
    assert found[-1].since == float(leads.index(True))


def test_a_tie_keeps_the_present_label(votes):
    found = votes(["owl", "gull"] * 10)
    assert {vote.label for vote in found} == {"owl"}
    assert found[-1].support == 0.5


def test_a_tie_without_a_present_label_goes_to_the_latest(votes):
    # When the owl's vote is too old, gull and lark have one each.
    found = votes(["owl", "gull", "lark", "NaN"], 9.0, [0, 5, 6, 9])
    assert [vote.label for vote in found] == ["owl", "owl", "owl", "lark"]
    assert found[-1] == Vote("lark", 0.5, 2, 9.0)


def test_votes_for_unknown_count_like_others(votes):
    found = votes([None, "owl", None, None])
    assert found[-1] == Vote(None, 0.75, 4, 0.0)
    assert found[-1].unknown
    assert found[-1].answer == "unknown"
    assert not votes(["unknown"])[0].unknown


def test_a_frame_without_an_answer_does_not_vote_and_time_goes_on(votes):
    found = votes(["owl", "NaN", "NaN", "NaN"], seconds=2.5)
    assert found == [
        Vote("owl", 1.0, 1, 0.0),
        Vote("owl", 1.0, 1, 0.0),
        Vote("owl", 1.0, 1, 0.0),
        None,
    ]
    assert votes(["NaN"]) == [None]


def test_a_vote_as_old_as_the_window_counts_no_more(votes):
    assert [vote.frames for vote in votes(["owl"] * 5, seconds=3.0)] == [1, 2, 3, 3, 3]


def test_a_late_frame_counts_at_its_own_time(votes):
    found = votes(["owl", "gull", "owl", "owl"], 5.0, [4, 1, 5, 6])
    assert [vote.frames for vote in found] == [1, 2, 3, 3]
    assert [vote.support for vote in found] == [1.0, 0.5, 2 / 3, 1.0]


def test_the_order_of_frames_within_the_window_does_not_change_the_support(votes):
    labels = ["owl", "owl", "owl", None, "gull", "owl"]
    ends = {
        (votes(labels, 100.0, order)[-1].support, votes(labels, 100.0, order)[-1].frames)
        for order in itertools.permutations(range(6))
    }
    assert ends == {(4 / 6, 6)}


def test_a_film_that_begins_again_begins_a_new_vote(votes):
    found = votes(["owl"] * 4 + ["gull"], 3.0, [10, 11, 12, 13, 0])
    assert found[-1] == Vote("gull", 1.0, 1, 0.0)


def test_more_neighbors_than_the_bank_has_rows_are_one_vote(make_answer):
    vote = Ballot(1.0).add(0.0, 0.0, make_answer("owl", neighbors=9))
    assert vote == Vote("owl", 1.0, 1, 0.0)


@pytest.mark.parametrize("step", [0.0, 1e-3])
def test_memory_is_bounded_over_100_000_frames(make_answer, step):
    answers = [make_answer(label) for label in ("owl", "gull", None, "NaN")]
    ballot = Ballot(1e9)
    for index in range(100_000):
        vote = ballot.add(step * index, 0.0, answers[index % 4])
    assert vote.frames == MOST_VOTES
    assert sys.getsizeof(ballot._votes) < 100 * MOST_VOTES


def test_what_it_says_is_what_counting_the_window_says(make_answer):
    generator = np.random.default_rng(5)
    labels = ["owl", "gull", "lark", None]
    for _ in range(50):
        ballot, seconds = Ballot(2.0), 0.0
        given: list[tuple[float, str | None]] = []
        before = None
        for _ in range(60):
            seconds += float(generator.uniform(0, 0.3))
            late = seconds - float(generator.uniform(0, 1.0)) * (generator.random() < 0.2)
            label = labels[generator.integers(4)]
            given.append((late, label))
            vote = ballot.add(late, late, make_answer(label))
            newest = max(time for time, _ in given)
            window = [each for time, each in given if time > newest - 2.0]
            counts = {each: window.count(each) for each in window}
            assert vote.frames == len(window)
            assert vote.support == counts[vote.label] / len(window)
            lead = max(counts.values()) - counts[vote.label]
            assert lead < MARGIN * len(window)
            if before is not None and before.label != vote.label and before.label in counts:
                assert counts[vote.label] - counts[before.label] >= MARGIN * len(window)
            before = vote
