"""Text from tokens as they come: pieces join to the text, and what was given is never taken back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.pairs import byte_tokenizer
from tuco_lens.steering.text_stream import TextStream

TOKENIZER = byte_tokenizer()
ALPHABET = "ab e.é€😀\n"


def pieces(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    """What each byte of the text adds, and at last what was held back."""
    stream = TextStream(TOKENIZER, stop)
    given_out: list[str] = []
    for token_id in TOKENIZER(text, add_special_tokens=False).input_ids:
        given_out.append(stream.add(token_id))
        if stream.stopped:
            break
    return [*given_out, stream.close()], stream


@given(st.text(ALPHABET, max_size=30))
def test_the_pieces_join_to_the_text_and_hold_whole_characters(text: str) -> None:
    parts, stream = pieces(text)
    assert "".join(parts) == stream.text == text
    assert all("\ufffd" not in part for part in parts)


@given(st.text(ALPHABET, max_size=30), st.lists(st.text(ALPHABET, min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_ends_the_text_before_it_and_no_part_of_it_is_given_out(text: str, stop: list[str]) -> None:
    parts, stream = pieces(text, tuple(stop))
    # The stop string that is complete first ends the text, and the earliest of those that end there cuts it.
    ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
    seen = text[: ends[0]] if ends else text
    expected = seen[: min(seen.find(s) for s in stop if s in seen)] if ends else text
    assert stream.stopped == bool(ends)
    assert stream.text == expected
    shown = ""
    for part in parts:
        shown += part
        assert expected.startswith(shown)
    assert shown == expected


def test_a_character_of_several_tokens_comes_with_the_last_of_them() -> None:
    parts, _ = pieces("a😀b")
    assert parts == ["a", "", "", "", "😀", "b", ""]


def test_a_beginning_of_a_stop_string_is_held_until_it_is_none() -> None:
    parts, _ = pieces("abac", ("abb",))
    assert parts == ["", "", "ab", "ac", ""]
    # Held also while the character that decides is incomplete.
    parts, stream = pieces("xé", ("xé",))
    assert (parts, stream.text) == (["", "", "", ""], "")


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    stream = TextStream(TOKENIZER)
    first = TOKENIZER("é", add_special_tokens=False).input_ids[0]
    assert stream.add(first) == ""
    assert stream.close() == "\ufffd"
    assert stream.text == "\ufffd"


def test_special_tokens_are_no_text() -> None:
    stream = TextStream(TOKENIZER, ("<pad>",))
    assert [stream.add(TOKENIZER.bos_token_id), stream.add(TOKENIZER.pad_token_id)] == ["", ""]
    assert (stream.text, stream.stopped) == ("", False)


@pytest.mark.parametrize("clean", [True, False])
def test_a_tokenizer_that_cleans_up_spaces_takes_nothing_back(clean: bool) -> None:
    vocabulary = {word: i for i, word in enumerate(["it", "▁is", "▁.", "▁n't"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    stream = TextStream(PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=clean))
    parts = [stream.add(i) for i in range(4)]
    assert "".join(parts) == stream.text == "it is . n't"
