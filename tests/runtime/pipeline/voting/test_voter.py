"""Which votes belong together: regions, sources, connections."""

from __future__ import annotations

import numpy as np
import pytest

from foldcam.runtime.pipeline.voting import MOST_REGIONS, Voter, matched, overlap


@pytest.fixture
def voter():
    return Voter(10.0, [False, False], [False, True])


def labels(results) -> list[str | None]:
    return [result.vote.label for result in results]


def frames(results) -> list[int]:
    return [result.vote.frames for result in results]


LEFT, RIGHT = (0, 0, 50, 80), (50, 0, 50, 80)


def test_regions_do_not_mix(voter, make_answer, make_frame):
    for second in range(5):
        voted = voter.voted(
            make_frame(second), [make_answer("owl", LEFT), make_answer("gull", RIGHT)]
        )
    assert labels(voted) == ["owl", "gull"]
    assert frames(voted) == [5, 5]


def test_regions_are_known_by_their_place_not_their_order(voter, make_answer, make_frame):
    voter.voted(make_frame(0), [make_answer("owl", LEFT), make_answer("gull", RIGHT)])
    voted = voter.voted(make_frame(1), [make_answer("gull", RIGHT), make_answer("owl", LEFT)])
    assert labels(voted) == ["gull", "owl"]
    assert frames(voted) == [2, 2]


def test_given_boxes_that_overlap_keep_their_own_votes(voter, make_answer, make_frame):
    inner, outer = (10, 10, 40, 40), (8, 8, 44, 44)
    for second in range(4):
        given = [make_answer("owl", inner), make_answer("gull", outer)]
        voted = voter.voted(make_frame(second), given[:: 1 if second % 2 else -1])
    assert labels(voted) == ["owl", "gull"]


def test_a_moving_box_keeps_its_votes_and_a_new_one_begins_without(voter, make_answer, make_frame):
    for second in range(6):
        voted = voter.voted(make_frame(second), [make_answer("owl", (5 * second, 0, 30, 30))])
    assert frames(voted) == [6]
    voted = voter.voted(
        make_frame(6), [make_answer("owl", (30, 0, 30, 30)), make_answer("gull", (70, 50, 30, 30))]
    )
    assert frames(voted) == [7, 1]


def test_a_region_that_was_hidden_for_a_moment_is_the_same(voter, make_answer, make_frame):
    voter.voted(make_frame(0), [make_answer("owl", LEFT)])
    assert voter.voted(make_frame(1), []) == []
    assert frames(voter.voted(make_frame(2), [make_answer("owl", LEFT)])) == [2]
    voter.voted(make_frame(20), [])
    assert frames(voter.voted(make_frame(21), [make_answer("owl", LEFT)])) == [1]


def test_sources_do_not_mix(voter, make_answer, make_frame):
    for second in range(4):
        mine = voter.voted(make_frame(second), [make_answer("owl")])
        other = voter.voted(make_frame(second, stream=1), [make_answer("gull")])
    assert (labels(mine), frames(mine)) == (["owl"], [4])
    assert (labels(other), frames(other)) == (["gull"], [4])


def test_a_source_that_was_opened_again_begins_without_votes(voter, make_answer, make_frame):
    voter.voted(make_frame(0, stream=1, connection=1), [make_answer("owl")])
    voted = voter.voted(make_frame(1, stream=1, connection=2), [make_answer("gull")])
    assert (labels(voted), frames(voted)) == (["gull"], [1])


def test_photographs_get_no_vote(make_answer, make_frame):
    (result,) = Voter(1.0, [True], [False]).voted(make_frame(0), [make_answer("owl")])
    assert result.vote is None


def test_cells_stay_where_they_are_when_a_stream_changes_its_size(voter, make_answer, make_frame):
    voter.voted(make_frame(0), [make_answer("owl", LEFT), make_answer("gull", RIGHT)])
    half = [
        make_answer("owl", (0, 0, 25, 40), (50, 40)),
        make_answer("gull", (25, 0, 25, 40), (50, 40)),
    ]
    assert frames(voter.voted(make_frame(1), half)) == [2, 2]


def test_a_detector_whose_boxes_never_match_is_remembered_within_bounds(make_answer, make_frame):
    voter = Voter(1e6, [False], [False])
    for index in range(2000):
        box = (37 * index % 95, 53 * index % 75, 2, 2)
        voter.voted(make_frame(index), [make_answer("owl", box)])
    assert len(voter._streams[0].regions) <= MOST_REGIONS + 1


def test_pairs_of_largest_overlap_are_matched_first():
    earlier = np.array([[0.0, 0.0, 10.0, 10.0], [4.0, 0.0, 10.0, 10.0]])
    boxes = np.array([[3.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0]])
    assert matched(boxes, earlier) == {0: 1, 1: 0}
    assert matched(boxes[:0], earlier) == {} == matched(boxes, earlier[:0])


def test_overlap_is_intersection_over_union():
    box = np.array([[0.0, 0.0, 10.0, 10.0]])
    others = np.array(
        [[0.0, 0.0, 10.0, 10.0], [5.0, 0.0, 10.0, 10.0], [20.0, 0.0, 1.0, 1.0], [0, 0, 0, 0]]
    )
    assert overlap(box, others) == pytest.approx(np.array([[1.0, 1 / 3, 0.0, 0.0]]))
