"""Prompts: from text, chat messages or token ids to the tokens that both models read.

A prompt is tokenised once, by the tuned model's transformers tokenizer and never by TransformerLens (whose
`prepend_bos` doubles the BOS that a chat template writes). Cutting a prompt to the context is here too. Chats are
rendered in `chats.py`; roles and display strings of tokens are in `spans.py`, prompt files in `files.py`, batches in
`engine/batches.py`. This module imports no torch, so that prompts can be checked before the models load.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from typing_extensions import Unpack

from tuco_lens.brief import Brief
from tuco_lens.errors import InputError
from tuco_lens.prompts.chats import (
    ChatOptions,
    PromptNotice,
    SpecialTokens,
    TemplateOptions,
    check_messages,
    check_text,
    render_chat,
    tokens_of_chat,
)
from tuco_lens.prompts.spans import Role, display_tokens

Truncate = Literal["left", "right"]


@dataclass(frozen=True)
class Prompt(Brief):
    """One tokenised prompt."""

    text: str
    """The text as given; for a chat, as the template renders it; for token ids, decoded."""
    token_ids: tuple[int, ...]
    """The ids that both models read, [n_tokens]."""
    tokens: tuple[str, ...]
    """The string of each token for display, [n_tokens]; see `display_tokens`."""
    roles: tuple[Role, ...]
    """"text", "system", "user", "assistant", "tool", or "template" for what tokenizer or template adds, [n_tokens]."""
    has_bos: bool = False
    """Whether the first token is the tokenizer's BOS."""
    n_dropped: int = 0
    """Number of tokens cut off to fit the context; `text` still has them."""

    @property
    def n_tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)


PromptLike = str | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Sequence[int] | Prompt
"""Text, chat messages (each `{"role", "content"}`), an object of `messages` and `tools`, token ids, or a `Prompt`."""
_TWO_BOS: Final = (
    "a text begins with the BOS that the tokenizer writes itself, as one does that was put into a chat template "
    "beforehand: it was given one BOS, not two"
)


def make_prompt(
    tokenizer: Any,
    prompt: PromptLike,
    *,
    chat: bool = False,
    system: str | None = None,
    add_generation_prompt: bool = True,
    index: int | None = None,
    **template: Unpack[TemplateOptions],
) -> Prompt:
    """Tokenises one prompt, once, for both models of a pair.

    Raw text gets the special tokens that the tokenizer itself adds: a BOS if and only if it adds one. A chat gets those
    that its template writes, and no others. Text that already begins with the BOS, such as a chat rendered beforehand,
    gets no second one, and a `PromptNotice` says so.

    Args:
        tokenizer: The tuned model's transformers tokenizer.
        prompt: See `PromptLike`; a `Prompt` is returned unchanged, whatever the other options.
        chat: Take a text as the one user message of a chat. Messages are always a chat.
        system: A system message to put before the chat; an error beside a `Prompt`.
        add_generation_prompt: End the chat with the template's opening of an answer, unless the last message is the
            assistant's.
        index: The prompt's number, for error messages.
        **template: `prefill`, `continue_final`, `tools`, `template_kwargs` and `special_tokens`; see `TemplateOptions`.

    Raises:
        InputError: if the prompt is empty, of a wrong type or not valid Unicode; if there is no chat template or it
            refuses the messages; if an option does not go with the prompt; if the tokenizer does not know a token id.
    """
    name = prompt_name(index)
    if isinstance(prompt, Prompt):
        if system is not None:
            raise InputError(name, "a tokenised prompt cannot be given a system prompt", "give text or messages")
        return prompt
    options = ChatOptions(**template, add_generation_prompt=add_generation_prompt)
    if isinstance(prompt, Mapping):
        options = replace(options, tools=prompt.get("tools", options.tools))
    parsed = check_prompt(prompt, chat=chat, system=system, name=name, **template)
    if isinstance(parsed, str):
        return _from_text(tokenizer, parsed, options.special_tokens, name)
    if isinstance(parsed, tuple):
        return _from_ids(tokenizer, parsed, name)
    return _from_messages(tokenizer, parsed, options, name)


def is_one_prompt(prompts: PromptLike | Sequence[PromptLike]) -> bool:
    """Whether this is one prompt, not several: a string, a `Prompt`, an object, a list of messages or of ids."""
    if isinstance(prompts, str | Prompt | Mapping):
        return True
    listed = _as_list(prompts)
    return all(isinstance(part, int) for part in listed) or all(_is_message(part) for part in listed)


def as_prompt_list(prompts: PromptLike | Sequence[PromptLike]) -> list[PromptLike]:
    """One prompt or many, as a list.

    Raises:
        InputError: if the list is empty.
    """
    if isinstance(prompts, str | Prompt | Mapping):
        return [prompts]
    listed = _as_list(prompts)
    if not listed:
        raise InputError("no prompts", "the list is empty", "give at least one prompt")
    return [listed] if is_one_prompt(listed) else listed


def _as_list(prompts: Any) -> list[Any]:
    """As a list, also of a tensor or array of ids: a 1-D one is a prompt, of a 2-D one each row is."""
    return prompts.tolist() if hasattr(prompts, "tolist") else list(prompts)


def _is_message(part: object) -> bool:
    return isinstance(part, Mapping) and "messages" not in part


def prompt_name(index: int | None) -> str:
    """What error messages call a prompt."""
    return "the prompt" if index is None else f"prompt {index}"


def check_prompt(
    prompt: object,
    *,
    chat: bool = False,
    system: str | None = None,
    name: str = "the prompt",
    **template: Unpack[TemplateOptions],
) -> str | list[dict[str, Any]] | tuple[int, ...]:
    """Checks all of a prompt that can be checked without a tokenizer; options as in `make_prompt`.

    Returns:
        Raw text as a string; a chat as its list of messages, the system message included; token ids as a tuple.

    Raises:
        InputError: as in `make_prompt`, naming the prompt by `name`.
    """
    options = ChatOptions(**template)
    if system is not None:
        check_text(system, "the system prompt")
    if isinstance(prompt, str):
        check_text(prompt, name)
        if not chat:
            _require_no_chat_options(system, options, name)
            return prompt
        return check_messages([{"role": "user", "content": prompt}], system=system, name=name, options=options)
    # A 1-D tensor or array of ids becomes a list.
    parts: object = prompt.tolist() if hasattr(prompt, "tolist") else prompt  # pyright: ignore
    if isinstance(parts, Mapping):
        parts = _messages_of(parts, name)  # pyright: ignore
    if not isinstance(parts, Sequence) or isinstance(parts, bytes):
        kind = type(prompt).__name__
        raise InputError(name, f"a {kind} is neither text, messages nor token ids", "give a string or a list")
    if not parts:
        raise InputError(name, "it is empty", "give at least one token or message, or leave it out")
    if all(isinstance(part, Mapping) for part in parts):
        return check_messages(parts, system=system, name=name, options=options)
    if options.special_tokens == "text":
        raise InputError(name, "special_tokens='text' is for texts, and it is token ids", "leave the option out")
    return _check_ids(parts, chat or system is not None or bool(options.for_chats), name)


def _require_no_chat_options(system: str | None, options: ChatOptions, name: str) -> None:
    given = [*(["a system prompt"] if system is not None else []), *options.for_chats]
    if given:
        why = f"{given[0]} was given for raw text"
        raise InputError(name, why, "ask for chat (--chat), or leave it out")


def _messages_of(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    """The messages in an object of `messages` and `tools`."""
    messages: Any = record.get("messages")
    if not isinstance(messages, Sequence) or set(record) - {"messages", "tools"}:
        raise InputError(name, f"an object of {', '.join(map(str, record))} is no chat", "give messages, and tools")
    return messages


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


def _from_text(tokenizer: Any, text: str, special_tokens: SpecialTokens, name: str) -> Prompt:
    how: dict[str, Any] = {"split_special_tokens": True} if special_tokens == "text" else {}
    token_ids = tuple(tokenizer(text, verbose=False, **how)["input_ids"])
    bos = tokenizer.bos_token_id
    is_double = bos is not None and token_ids[:2] == (bos, bos) and text.startswith(tokenizer.bos_token)
    token_ids = token_ids[1:] if is_double else token_ids
    made = _finished(tokenizer, text, token_ids, _roles_of_text(tokenizer, token_ids), name)
    if is_double:
        warnings.warn(_TWO_BOS, PromptNotice, stacklevel=2)
    return made


def _from_ids(tokenizer: Any, token_ids: tuple[int, ...], name: str) -> Prompt:
    for token_id in token_ids:
        # The tokenizers library holds ids in 32 bits and overflows above.
        if not 0 <= token_id < 2**31 or tokenizer.convert_ids_to_tokens(token_id) is None:
            why = f"the tokenizer has no token of id {token_id}"
            raise InputError(name, why, "tokenise with the tuned model's own tokenizer")
    text: str = tokenizer.decode(list(token_ids))
    return _finished(tokenizer, text, token_ids, _roles_of_text(tokenizer, token_ids), name)


def _from_messages(tokenizer: Any, messages: list[dict[str, Any]], options: ChatOptions, name: str) -> Prompt:
    rendered, spans = render_chat(tokenizer, messages, options, name)
    n_contents = sum(bool(message["content"]) for message in messages) + (options.prefill is not None)
    ids, roles = tokens_of_chat(tokenizer, rendered, spans, options.special_tokens, n_contents, name)
    return _finished(tokenizer, rendered, ids, roles, name)


def _roles_of_text(tokenizer: Any, token_ids: Sequence[int]) -> tuple[Role, ...]:
    special = set(tokenizer.all_special_ids)
    unknown = tokenizer.unk_token_id
    # The unknown token stands for text, unless it is also the BOS or EOS (GPT-2).
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
    base_d_vocab: int | None = None,
) -> Prompt:
    """The prompt, checked to be one that the models can read, and cut to the context if asked.

    Args:
        prompt: From `make_prompt`.
        n_ctx: Longest prompt that the models can read, in tokens; None for no limit.
        truncate: "left" drops the first tokens, but keeps a BOS at the start; "right" drops the last, so the prompt is
            measured at another token than its own last.
        index: The prompt's number, for error messages.
        d_vocab: Size of the tuned model's embedding, in tokens; None leaves the ids unchecked.
        base_d_vocab: Size of the base model's embedding, in tokens, for drift and OutputCo; None for TuCo alone.

    Raises:
        InputError: if the prompt is too long and `truncate` is None, if `truncate` is unknown, or if an id is outside
            an embedding.
    """
    name = prompt_name(index)
    if truncate not in (None, "left", "right"):
        raise InputError("truncate", f"{truncate!r} is not a side", "give 'left' or 'right'")
    if d_vocab is not None and not 0 <= min(prompt.token_ids) <= max(prompt.token_ids) < d_vocab:
        wrong = next(token_id for token_id in prompt.token_ids if not 0 <= token_id < d_vocab)
        why = f"token id {wrong} is outside the tuned model's vocabulary, 0 … {d_vocab - 1}"
        raise InputError(name, why, "tokenise with the tuned model's own tokenizer")
    if n_ctx is None or prompt.n_tokens <= n_ctx:
        kept = prompt
    else:
        kept = _cut(prompt, n_ctx, truncate, name)
    if base_d_vocab is not None:
        _require_base_tokens(kept, base_d_vocab, name)
    return kept


def _cut(prompt: Prompt, n_ctx: int, truncate: Truncate | None, name: str) -> Prompt:
    if truncate is None:
        why = f"it has {prompt.n_tokens} tokens, and the context is {n_ctx} tokens"
        raise InputError(name, why, "shorten it, or cut it with --truncate left|right (truncate=…)")
    if truncate == "right":
        return _keep(prompt, range(n_ctx))
    head = range(int(prompt.has_bos and n_ctx > 1))
    return _keep(prompt, [*head, *range(prompt.n_tokens - n_ctx + len(head), prompt.n_tokens)])


def _require_base_tokens(prompt: Prompt, size: int, name: str) -> None:
    """Refuse tokens added by fine-tuning, which the base model's embedding of `size` tokens lacks."""
    pairs = zip(prompt.token_ids, prompt.tokens, strict=True)
    lacking = sorted({token for token_id, token in pairs if token_id >= size})
    if lacking:
        raise InputError(
            name,
            f"the base model's vocabulary of {size} lacks its tokens {', '.join(map(repr, lacking))}",
            "measure without drift, for TuCo needs only the tuned model's embedding",
        )


def _keep(prompt: Prompt, positions: Sequence[int]) -> Prompt:
    return replace(
        prompt,
        token_ids=tuple(prompt.token_ids[position] for position in positions),
        tokens=tuple(prompt.tokens[position] for position in positions),
        roles=tuple(prompt.roles[position] for position in positions),
        has_bos=prompt.has_bos and positions[0] == 0,
        n_dropped=prompt.n_dropped + prompt.n_tokens - len(positions),
    )
