"""Keys of sessions and turns: an owner's session is no one else's."""

from hypothesis import given
from hypothesis import strategies as st

from tests.core.generated import ids, properly
from turnwire.core.log_values import SessionKey, TurnKey


@properly
@given(st.text(), ids, ids)
def test_a_turns_key_leads_back_to_its_session(owner: str, session: str, turn: str) -> None:
    key = SessionKey(owner, session).turn(turn)
    assert key == TurnKey(owner, session, turn)
    assert key.session_key == SessionKey(owner, session)


def test_another_owners_session_of_the_same_id_is_another_key() -> None:
    assert SessionKey("ann", "s") != SessionKey("bob", "s")
    assert len({SessionKey("ann", "s"), SessionKey("bob", "s"), SessionKey("ann", "s")}) == 2
    assert SessionKey("ann", "s").turn("t") != SessionKey("bob", "s").turn("t")
