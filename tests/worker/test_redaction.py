"""Passwords in what others' libraries say."""

from worker.redaction import reason


def test_users_and_passwords_of_addresses_are_left_out():
    error = RuntimeError(
        "API request to http://user:pass@127.0.0.1:5000/api failed; see https://a.example/b@c\nmore"
    )
    assert (
        reason(error) == "RuntimeError: API request to http://127.0.0.1:5000/api failed; see https://a.example/b@c"
    )
