"""Passwords in what others' libraries say."""

from worker.redaction import redacted


def test_users_and_passwords_of_addresses_are_left_out():
    said = "MlflowException: API request to http://user:pass@127.0.0.1:5000/api failed; see https://a.example/b@c"
    assert (
        redacted(said)
        == "MlflowException: API request to http://127.0.0.1:5000/api failed; see https://a.example/b@c"
    )
