"""Prompts: from text, chat messages or token ids to the tokens that both models read.

A prompt is tokenised once, by the tuned model's transformers tokenizer itself, and never by TransformerLens (whose
`prepend_bos` doubles the BOS that a chat template writes). Also here: cutting a prompt to the context. Roles and
display strings of tokens are in `spans.py`, prompt files in `files.py`, batches in `engine/batches.py`. This module
imports no torch, so that prompts can be checked before the models load.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tuco_lens.errors import InputError
from tuco_lens.prompts.spans import Role, content_spans, display_tokens, roles_of_tokens

CHAT_ROLES = ("system", "user", "assistant")
Truncate = Literal["left", "right"]


@dataclass(frozen=True)
class Prompt:
    """One tokenised prompt."""

    text: str
    """The text as given; for a chat, the rendered template; for token ids, their decoding."""
    token_ids: tuple[int, ...]
    """What both models read, [n_tokens]."""
    tokens: tuple[str, ...]
    """How each token reads, [n_tokens]; see `display_tokens`."""
    roles: tuple[Role, ...]
    """"text", "system", "user", "assistant", or "template" for what tokenizer or template add, [n_tokens]."""
    has_bos: bool = False
    """Whether the first token is the tokenizer's BOS."""
    n_dropped: int = 0
    """Tokens cut off to fit the context; `text` still has them."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens, in tokens."""
        return len(self.token_ids)


PromptLike = str | Sequence[Mapping[str, str]] | Sequence[int] | Prompt
"""Text, chat messages (`{"role", "content"}` each), token ids, or what `make_prompt` returned."""


def make_prompt(
    tokenizer: Any,
    prompt: PromptLike,
    *,
    chat: bool = False,
    system: str | None = None,
    add_generation_prompt: bool = True,
    index: int | None = None,
) -> Prompt:
    """Tokenises one prompt, once, for both models of a pair.

    Raw text gets the special tokens that the tokenizer itself adds: a BOS if and only if it adds one. A chat gets those
    that its template writes, and no others.

    Args:
        tokenizer: The tuned model's transformers tokenizer.
        prompt: Text, messages, token ids, or a `Prompt`, which is returned as it is.
        chat: Take a text as the one user message of a chat. Messages are a chat with or without it.
        system: A system message to put before the chat.
        add_generation_prompt: Close the chat with the template's opening of an answer, unless the last message is the
            assistant's.
        index: The prompt's number, for error messages.

    Raises:
        InputError: if the prompt is empty, of a wrong type or not valid Unicode; if there is no chat template or it
            refuses the messages; if the tokenizer does not know a token id.
    """
    name = prompt_name(index)
    if isinstance(prompt, Prompt):
        if system is not None:
            raise InputError(name, "a tokenised prompt cannot be given a system prompt", "give text or messages")
        return prompt
    parsed = check_prompt(prompt, chat=chat, system=system, name=name)
    if isinstance(parsed, str):
        return _from_text(tokenizer, parsed, name)
    if isinstance(parsed, tuple):
        return _from_ids(tokenizer, parsed, name)
    return _from_messages(tokenizer, parsed, add_generation_prompt, name)


def prompt_name(index: int | None) -> str:
    """What error messages call a prompt."""
    return "the prompt" if index is None else f"prompt {index}"


def check_prompt(
    prompt: object, *, chat: bool = False, system: str | None = None, name: str = "the prompt"
) -> str | list[dict[str, str]] | tuple[int, ...]:
    """Checks all of a prompt that can be checked without a tokenizer.

    Returns:
        Raw text as a string; a chat as its list of messages, the system message included; token ids as a tuple.

    Raises:
        InputError: as in `make_prompt`, naming the prompt by `name`.
    """
    if system is not None:
        check_text(system, "the system prompt")
    if isinstance(prompt, str):
        check_text(prompt, name)
        if chat:
            return [*_system_message(system), {"role": "user", "content": prompt}]
        if system is not None:
            raise InputError(name, "a system prompt was given for raw text", "ask for chat (--chat), or leave it out")
        return prompt
    # A 1-D tensor or array of ids is a list of ids.
    parts: object = prompt.tolist() if hasattr(prompt, "tolist") else prompt  # pyright: ignore
    if not isinstance(parts, Sequence) or isinstance(parts, bytes):
        kind = type(prompt).__name__
        raise InputError(name, f"a {kind} is neither text, messages nor token ids", "give a string or a list")
    if not parts:
        raise InputError(name, "it is empty", "give at least one token or message, or leave it out")
    if all(isinstance(part, Mapping) for part in parts):
        return check_messages(parts, system=system, name=name)
    return _check_ids(parts, chat or system is not None, name)


def check_text(text: str, name: str) -> None:
    """Raises `InputError` if the text is empty or blank, or if it is not valid Unicode."""
    if not text.strip():
        raise InputError(name, "it is empty or only white space", "give it a text, or leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        why = (
            f"character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}, which is not valid Unicode"
        )
        raise InputError(name, why, "replace that character") from None


def check_messages(messages: Sequence[Any], *, system: str | None = None, name: str) -> list[dict[str, str]]:
    """The messages as plain dictionaries, with the system message before them.

    Raises:
        InputError: naming the message that is not `{"role": system | user | assistant, "content": text}`.
    """
    checked = _system_message(system)
    for number, message in enumerate(messages):
        where = f"{name}, message {number}"
        if not isinstance(message, Mapping):
            raise InputError(where, f"it is a {type(message).__name__}", 'write {"role": …, "content": …}')
        role, content = message.get("role"), message.get("content")  # pyright: ignore
        if role not in CHAT_ROLES:
            raise InputError(where, f"its role is {role!r}", f"use one of {', '.join(CHAT_ROLES)}")
        if not isinstance(content, str):
            raise InputError(where, f"its content is a {type(content).__name__}", "give the content as a string")  # pyright: ignore
        check_text(content, where)
        if role == "system" and system is not None:
            raise InputError(where, "it is a system message beside the system prompt given", "leave one of them out")
        checked.append({"role": str(role), "content": content})
    if not checked:
        raise InputError(name, "it has no messages", "give it at least one, or leave it out")
    return checked


def _system_message(system: str | None) -> list[dict[str, str]]:
    return [] if system is None else [{"role": "system", "content": system}]


def _check_ids(parts: Sequence[Any], is_chat: bool, name: str) -> tuple[int, ...]:
    try:
        if any(isinstance(part, bool | str) for part in parts):
            raise TypeError
        ids = tuple(operator.index(part) for part in parts)
    except TypeError:
        kinds = ", ".join(sorted({type(part).__name__ for part in parts}))
        raise InputError(name, f"a list of {kinds} is neither messages nor token ids", "give one of the two") from None
    if is_chat:
        raise InputError(name, "token ids cannot go through a chat template", "give text or messages")
    return ids


def _from_text(tokenizer: Any, text: str, name: str) -> Prompt:
    token_ids = tuple(tokenizer(text, verbose=False)["input_ids"])
    return _finished(tokenizer, text, token_ids, _roles_of_text(tokenizer, token_ids), name)


def _from_ids(tokenizer: Any, token_ids: tuple[int, ...], name: str) -> Prompt:
    for token_id in token_ids:
        # The tokenizers library holds ids in 32 bits and overflows beyond.
        if not 0 <= token_id < 2**31 or tokenizer.convert_ids_to_tokens(token_id) is None:
            why = f"the tokenizer has no token of id {token_id}"
            raise InputError(name, why, "tokenise with the tuned model's own tokenizer")
    text: str = tokenizer.decode(list(token_ids))
    return _finished(tokenizer, text, token_ids, _roles_of_text(tokenizer, token_ids), name)


def _from_messages(tokenizer: Any, messages: list[dict[str, str]], add_generation_prompt: bool, name: str) -> Prompt:
    from jinja2 import TemplateError  # transformers renders with it, and may do without it where there is no chat

    is_open = add_generation_prompt and messages[-1]["role"] != "assistant"

    def render(some: Any) -> str:
        return tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=is_open)

    def render_marked(some: Any) -> str:
        try:
            return render(some)
        except (TemplateError, ValueError, TypeError):  # it takes the contents apart; without markers it worked
            return ""

    rendered = _rendered(tokenizer, messages, render, name)
    # The template has written the special tokens; the tokenizer must not add its own.
    encoding = tokenizer(
        rendered, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast), verbose=False
    )
    token_ids = tuple(encoding["input_ids"])
    roles: tuple[Role, ...] = ("template",) * len(token_ids)
    if tokenizer.is_fast:  # a slow tokenizer does not say which characters a token holds
        spans = sorted(content_spans(messages, rendered, render_marked), key=lambda span: span.start)
        roles = roles_of_tokens(encoding["offset_mapping"], spans)
    return _finished(tokenizer, rendered, token_ids, roles, name)


def _rendered(tokenizer: Any, messages: list[dict[str, str]], render: Callable[[Any], str], name: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        remedy = "measure raw text (without --chat), or give a tokenizer that has one"
        raise InputError(name, "the tuned model's tokenizer has no chat template", remedy)
    from jinja2 import TemplateError

    try:
        return render(messages)
    except (TemplateError, ValueError, TypeError) as error:
        if any(message["role"] == "system" for message in messages):
            remedy = "put the system prompt into the first user message"
        else:
            remedy = "order the messages as the template wants them, mostly user, assistant, user, …"
        raise InputError(name, f"the chat template refuses it ({error})", remedy) from error


def _roles_of_text(tokenizer: Any, token_ids: Sequence[int]) -> tuple[Role, ...]:
    special = set(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    # A word that the vocabulary lacks is text, unless the same token also opens or closes texts (GPT-2).
    if unknown not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        special.discard(unknown)
    return tuple("template" if token_id in special else "text" for token_id in token_ids)


def _finished(tokenizer: Any, text: str, token_ids: tuple[int, ...], roles: tuple[Role, ...], name: str) -> Prompt:
    bos = tokenizer.bos_token_id
    if not token_ids or all(token_id == bos for token_id in token_ids):
        raise InputError(name, "no token is left of it but the BOS", "give it a text, or leave it out")
    tokens = display_tokens(tokenizer, token_ids)
    return Prompt(text, token_ids, tokens, roles, has_bos=token_ids[0] == bos)


def fit(
    prompt: Prompt,
    n_ctx: int | None,
    *,
    truncate: Truncate | None = None,
    index: int | None = None,
    d_vocab: int | None = None,
) -> Prompt:
    """The prompt, if the models take it as it is; else cut to the context, if asked.

    Args:
        prompt: From `make_prompt`.
        n_ctx: Longest prompt that the models take, in tokens; None for no limit.
        truncate: "left" drops the first tokens, but keeps a BOS at the start; "right" drops the last, so the prompt is
            measured at another token than its end.
        index: The prompt's number, for error messages.
        d_vocab: Size of the tuned model's embedding, in tokens; None leaves the ids unchecked.

    Raises:
        InputError: if the prompt is too long and `truncate` is None, or if an id is outside the embedding.
    """
    name = prompt_name(index)
    if truncate not in (None, "left", "right"):
        raise InputError("truncate", f"{truncate!r} is not a side", "give 'left' or 'right'")
    if d_vocab is not None and not 0 <= min(prompt.token_ids) <= max(prompt.token_ids) < d_vocab:
        wrong = next(token_id for token_id in prompt.token_ids if not 0 <= token_id < d_vocab)
        why = f"token id {wrong} is outside the tuned model's vocabulary, 0 … {d_vocab - 1}"
        raise InputError(name, why, "tokenise with the tuned model's own tokenizer")
    if n_ctx is None or prompt.n_tokens <= n_ctx:
        return prompt
    if truncate is None:
        why = f"it has {prompt.n_tokens} tokens, and the context is {n_ctx} tokens"
        raise InputError(name, why, "shorten it, or cut it with --truncate left|right (truncate=…)")
    if truncate == "right":
        return _keep(prompt, range(n_ctx))
    head = range(int(prompt.has_bos and n_ctx > 1))
    return _keep(prompt, [*head, *range(prompt.n_tokens - n_ctx + len(head), prompt.n_tokens)])


def _keep(prompt: Prompt, positions: Sequence[int]) -> Prompt:
    return replace(
        prompt,
        token_ids=tuple(prompt.token_ids[position] for position in positions),
        tokens=tuple(prompt.tokens[position] for position in positions),
        roles=tuple(prompt.roles[position] for position in positions),
        has_bos=prompt.has_bos and positions[0] == 0,
        n_dropped=prompt.n_dropped + prompt.n_tokens - len(positions),
    )
