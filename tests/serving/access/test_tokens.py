"""Tokens: their form, what is kept of them, and what is never shown."""

import hashlib

import pytest

from serving.access import tokens
from tests.serving.access.callers import NOW


def test_a_token_is_found_by_scanners_and_of_it_only_a_hash_is_kept() -> None:
    text, stored = tokens.issue(created=NOW)
    token = tokens.parse(text)
    assert token is not None
    assert text == f"cor_{stored.id}_{token.secret}"
    assert len(token.secret) == 43  # 256 bits in base64url
    assert stored.sha256 == hashlib.sha256(token.secret.encode()).hexdigest()
    assert token.secret not in stored.model_dump_json()
    assert tokens.fits(token, stored)


def test_a_token_does_not_show_its_secret_when_it_is_printed() -> None:
    token = tokens.parse(tokens.issue(created=NOW)[0])
    assert token is not None
    assert token.secret not in f"{token} {token!r} {[token]}"


def test_tokens_differ_and_none_fits_another() -> None:
    (first, stored), (second, _) = tokens.issue(created=NOW), tokens.issue(created=NOW)
    other = tokens.parse(second)
    assert first != second
    assert other is not None
    assert not tokens.fits(other, stored)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: f"{text}A",
        lambda text: f"{text}\n",
        lambda text: text.replace("cor_", "COR_"),
        lambda text: text.upper(),
        lambda text: f"{text[:-1]}é",
        lambda text: f"{text[:-1]}\0",
        lambda text: text.replace("_", ".", 1),
    ],
)
def test_what_is_not_a_token_is_not_read_as_one(change: object) -> None:
    assert callable(change)
    assert tokens.parse(change(tokens.issue(created=NOW)[0])) is None
