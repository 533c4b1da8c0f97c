"""Which part of a chat each token belongs to, and the string that figures show for it.

Everything here works on strings and on the interface of a transformers tokenizer, and imports neither torch nor
transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Role = Literal["text", "system", "user", "assistant", "tool", "template"]


@dataclass(frozen=True)
class Span:
    """The characters start … end-1 of a rendered chat: the content of one message."""

    start: int
    """First character."""
    end: int
    """One past the last character."""
    role: Role
    """Role of the message."""


def content_spans(messages: Sequence[Mapping[str, Any]], rendered: str, render: Callable[[Any], str]) -> list[Span]:
    """Where the contents of the messages are in the rendered chat.

    The template is rendered a second time with a marker in place of each content. The text between the markers is the
    template's own, so a content that also occurs in the template ("user") is not mistaken for it. Templates may trim
    the contents. If this does not rebuild `rendered` (since the template depends on what the contents say), they are
    searched for from left to right, and one that is not found has no span.

    Args:
        messages: Each `{"role", "content"}`.
        rendered: The template's rendering of `messages`.
        render: Renders other messages in the same way; called once.
    """
    # An assistant's message may have no text beside its tool calls.
    markers = [f"\ue000{number}\ue001" if message["content"] else "" for number, message in enumerate(messages)]
    if any("\ue000" in message["content"] for message in messages):
        return _searched(messages, rendered)
    marked = render([{**message, "content": marker} for message, marker in zip(messages, markers, strict=True)])
    places = sorted(
        (marked.find(marker), number) for number, marker in enumerate(markers) if marker and marked.count(marker) == 1
    )
    for trim in (_as_given, str.strip, str.lstrip, str.rstrip):
        spans = _rebuilt(messages, markers, places, marked, rendered, trim)
        if spans is not None:
            return spans
    return _searched(messages, rendered)


def _as_given(content: str) -> str:
    return content


def _rebuilt(
    messages: Sequence[Mapping[str, Any]],
    markers: Sequence[str],
    places: Iterable[tuple[int, int]],
    marked: str,
    rendered: str,
    trim: Callable[[str], str],
) -> list[Span] | None:
    """The spans if the template's pieces and the trimmed contents, put together, are `rendered`; else None."""
    spans: list[Span] = []
    text, cursor = "", 0
    for place, number in places:
        text += marked[cursor:place]
        content = trim(messages[number]["content"])
        spans.append(Span(len(text), len(text) + len(content), _role(messages[number])))
        text += content
        cursor = place + len(markers[number])
    return spans if text + marked[cursor:] == rendered else None


def _searched(messages: Sequence[Mapping[str, Any]], rendered: str) -> list[Span]:
    spans: list[Span] = []
    cursor = 0
    for message in messages:
        for content in (message["content"], message["content"].strip()):
            place = rendered.find(content, cursor)
            if content and place >= 0:
                cursor = place + len(content)
                spans.append(Span(place, cursor, _role(message)))
                break
    return spans


def _role(message: Mapping[str, Any]) -> Role:
    role = message["role"]
    assert role in get_args(Role), role  # checked by `check_messages`
    return cast("Role", role)


def roles_of_tokens(offsets: Sequence[tuple[int, int]], spans: Sequence[Span]) -> tuple[Role, ...]:
    """The role of each token: that of the message that any of its characters are from, else "template".

    Args:
        offsets: First character of each token, and one past its last; ascending.
        spans: Ascending and disjoint.
    """
    roles: list[Role] = []
    current = 0
    for start, end in offsets:
        while current < len(spans) and spans[current].end <= start:
            current += 1
        inside = current < len(spans) and start < end and spans[current].start < end
        roles.append(spans[current].role if inside else "template")
    return tuple(roles)


def display_tokens(tokenizer: Any, token_ids: Sequence[int]) -> tuple[str, ...]:
    """The string of each token inside a text, [n_tokens]: joined, they read as the text.

    Spaces that belong to a token are kept. A token that is only part of a character shows U+FFFD, a special token its
    name.
    """
    special = {int(token_id): str(token) for token_id, token in tokenizer.added_tokens_decoder.items()}
    names: list[str | None] = tokenizer.convert_ids_to_tokens(list(token_ids))
    shown = _shower(tokenizer)
    return tuple(
        special[token_id] if token_id in special else shown(token_id, name)
        for token_id, name in zip(token_ids, names, strict=True)
    )


def _shower(tokenizer: Any) -> Callable[[int, str | None], str]:
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)

    def by_decoder(token_id: int, name: str | None) -> str:
        # Decoders drop the space before the first word, so the token is decoded behind another one.
        text: str = decoder.decode(["x", name]) if decoder is not None and name is not None else ""
        return text[1:] if text.startswith("x") else by_decode(token_id, name)

    def by_decode(token_id: int, name: str | None) -> str:
        text: str = tokenizer.decode([token_id])
        has_space = name is not None and name.startswith("▁") and not text.startswith(" ")
        return f" {text}" if has_space else text

    return by_decode if decoder is None else by_decoder
