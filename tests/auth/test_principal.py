"""Who asks, and what they may."""

from __future__ import annotations

from hive.auth.principal import ANONYMOUS, NOBODY, Principal
from hive.auth.scopes import SCOPES, with_implied


def test_admin_holds_every_scope_and_no_other_scope_holds_another() -> None:
    assert with_implied(["admin"]) == set(SCOPES)
    for scope in ("read", "pull", "run"):
        assert with_implied([scope]) == {scope}


def test_anybody_may_do_everything_where_there_are_no_keys_and_nothing_where_there_are() -> None:
    assert all(ANONYMOUS.may(scope) for scope in SCOPES)
    assert not any(NOBODY.may(scope) for scope in SCOPES)


def test_a_principal_sees_what_is_its_owners_and_an_admin_everything() -> None:
    ann = Principal("k1", "ann", with_implied(["read", "pull"]))
    assert ann.sees({"ann", "bob"})
    assert not ann.sees({"bob"})
    assert not ann.sees(())
    assert Principal("k2", "bob", with_implied(["admin"])).sees({"ann"})
    assert ANONYMOUS.sees({"ann"})
