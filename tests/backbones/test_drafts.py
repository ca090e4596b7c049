"""Drafts are what followed before, and are made where they are likely to pay."""

from __future__ import annotations

import numpy as np
import pytest

from promptrl_plugin.backbones.drafts import ORDERS, DraftBook, Text


def sequence(seed: int, count: int = 40) -> list[int]:
    """Without a repetition."""
    return [int(t) for t in np.random.default_rng(seed).permutation(1000)[:count]]


def test_what_followed_in_the_text_itself() -> None:
    once = sequence(0)
    text = Text([*once, *once[:10]])
    ((order, draft),) = DraftBook(12).draft([text], [100])
    assert order == max(ORDERS)
    assert draft == once[10 : 10 + len(draft)]
    assert draft


def test_the_latest_occurrence_counts() -> None:
    key, book = [1, 2, 3], DraftBook(12)
    text = Text([*key, 7, 0, *key, 8, 0, *key])
    assert book.draft([text], [1]) == [(3, [8])]
    text.tokens += [9, 5, *key]
    assert book.draft([text], [1]) == [(3, [9])]


def test_what_followed_in_completions_that_ended() -> None:
    one, other, book = sequence(1), sequence(2), DraftBook(12)
    assert book.draft([Text(one[:20])], [100]) == [(0, [])]
    book.remember(one)
    book.remember(other)
    (_, draft), (_, at_the_end) = book.draft([Text(one[:20]), Text(other[:38])], [100, 100])
    assert draft == one[20 : 20 + len(draft)]
    assert draft
    assert at_the_end in (other[38:], other[38:39]), "not beyond the end of a completion"
    assert book.draft([Text(other)], [100]) == [(0, [])]


def test_a_run_of_tokens_with_the_same_hash_is_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DraftBook, "_slot", lambda _self, _key: 0)
    book, other = DraftBook(12), sequence(4)
    book.remember(sequence(3))
    assert book.draft([Text(other)], [100]) == [(0, [])]
    assert book.draft([Text([*other, *sequence(3)[:39]])], [100]) == [(6, sequence(3)[39:])], "the last one is kept"


def test_the_oldest_is_overwritten() -> None:
    book = DraftBook(12, capacity=128)
    texts = [sequence(n, 30) for n in range(5)]
    for text in texts:
        book.remember(text)
    known = [any(book.draft([Text(t[:n])], [100])[0][1] for n in range(6, 29)) for t in texts]
    assert known == [False, True, True, True, True]


def test_room_and_slack_bound_the_draft() -> None:
    once = sequence(5, 100)
    text = Text([*once, *once[:10]])
    for room in (0, 1, 2):
        assert len(DraftBook(1000).draft([text], [room])[0][1]) <= room
    assert DraftBook(0).draft([text], [100]) == [(0, [])]
    for slack in (1, 12):
        short = Text(text.tokens, len(text.tokens) - 50)
        assert DraftBook(slack).draft([short] * (slack + 1), [100] * (slack + 1)) == [(0, [])] * (slack + 1)


def test_beside_many_sequences_the_longest_are_drafted_while_it_is_likely_to_come_true() -> None:
    once = sequence(8, 200)
    rows = [Text([*once, *once[: 10 + n]], 20) for n in range(20)]
    short = [Text([*once, *once[:10]], 150) for _ in range(20)]
    book = DraftBook(4)
    drafts = book.draft([*short, *rows], [100] * 40)
    assert [i for i, (_, draft) in enumerate(drafts) if draft] == [36, 37, 38, 39]
    assert drafts[39] == (6, once[29:30]), "half of the first ones come true, as far as is known"
    for _ in range(100):
        book.learn(6, 10, 10)
    assert book.draft([*short, *rows], [100] * 40)[39] == (6, once[29:34])
    assert book.draft([*short, *rows], [2] * 40)[39] == (6, once[29:31])
    for _ in range(1000):
        book.learn(6, 10, 0)
    assert not any(draft for _, draft in book.draft([*short, *rows], [100] * 40))


def test_a_text_that_turns_in_circles_is_drafted_round_and_round() -> None:
    book, circle = DraftBook(12), sequence(9, 4)
    for _ in range(100):
        book.learn(6, 10, 10)
    assert book.draft([Text(circle * 5)], [10]) == [(6, (circle * 3)[:10])]


def test_drafts_that_come_true_are_made_longer_and_those_that_do_not_shorter() -> None:
    once = sequence(6, 200)
    texts = [Text([*once, *once[:10]]) for _ in range(4)]

    def drafted(book: DraftBook) -> int:
        return sum(len(draft) for _, draft in book.draft(texts, [100] * 4))

    fresh, good, bad = DraftBook(12), DraftBook(12), DraftBook(12)
    for _ in range(100):
        good.learn(6, 10, 10)
        bad.learn(6, 10, 0)
    assert drafted(bad) < drafted(fresh) < drafted(good)
    assert drafted(bad) == 0


def test_more_sequences_are_given_shorter_drafts() -> None:
    once = sequence(7, 200)
    counts = []
    for rows in (1, 4, 8, 12, 13):
        texts = [Text([*once, *once[:10]], prompt=200) for _ in range(rows)]
        counts.append(sum(len(g) for _, g in DraftBook(12).draft(texts, [100] * rows)) / rows)
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[2] > counts[-1] == 0
