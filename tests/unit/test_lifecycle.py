from hypothesis import given
from hypothesis import strategies as st

from hakuriver.lifecycle import ENDED, LIVE, ON_NODE, TRANSITIONS, State, allowed, apply_report, end_state

states = st.sampled_from(State)


def test_every_state_has_a_row_and_ends_are_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(not TRANSITIONS[state] for state in ENDED)
    assert ON_NODE < LIVE
    assert set(State) == LIVE | ENDED


def test_every_state_is_reached_and_every_live_one_can_end() -> None:
    reached, frontier = {State.PENDING}, [State.PENDING]
    while frontier:
        for after in TRANSITIONS[frontier.pop()] - reached:
            reached.add(after)
            frontier.append(after)
    assert reached == set(State)
    assert all(TRANSITIONS[state] & ENDED for state in LIVE)


@given(states, states)
def test_a_report_never_leaves_the_table(before: State, reported: State) -> None:
    after = apply_report(before, reported)
    assert after is None or after == before or allowed(before, after)


@given(st.lists(states, max_size=30))
def test_no_sequence_of_reports_leaves_an_end(reports: list[State]) -> None:
    state = State.ASSIGNED
    for reported in reports:
        ended = state in ENDED
        state = apply_report(state, reported) or state
        assert not ended or state in ENDED
    assert state in State


def test_stopping_absorbs_progress() -> None:
    for progress in (State.PREPARING, State.RUNNING, State.PAUSED):
        assert apply_report(State.STOPPING, progress) is State.STOPPING


@given(
    st.none() | st.integers(0, 255),
    st.none() | st.integers(1, 64),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_ends(code: int | None, signal: int | None, killed: bool, timed_out: bool, oom: bool) -> None:
    state = end_state(exit_code=code, signal=signal, killed=killed, timed_out=timed_out, oom=oom)
    assert state in ENDED
    if state is State.COMPLETED:
        assert code == 0
        assert signal is None
    assert (state is State.KILLED) == (killed and not timed_out)
