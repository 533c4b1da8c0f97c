"""Chats: messages are checked, rendered with the tokenizer's template, and tokenised with the role of each token.

The contents are found in the rendered text by `spans.py`; other kinds of prompt are in `prompt.py`. Messages are those
of transformers and of common chat APIs: contents may be lists of text parts, an assistant's may be empty if it has
`tool_calls`, and `tool` messages hold what a tool returned.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Literal, TypedDict, cast
from weakref import WeakKeyDictionary

from tuco_lens.brief import cut
from tuco_lens.errors import InputError
from tuco_lens.prompts.limits import LimitExceeded, stopped_after, try_in_child
from tuco_lens.prompts.spans import Role, Span, content_spans, roles_of_tokens

CHAT_ROLES: Final = ("system", "user", "assistant", "tool")
SpecialTokens = Literal["control", "text"]
"""How `<|im_end|>` and the like are read when a text or message contains them: as the control token or as text."""
_OURS: Final = {
    "conversation": "prompts",
    "tools": "tools=…",
    "add_generation_prompt": "continue_final=… or prefill=…",
    "continue_final_message": "continue_final=…",
    "tokenize": "nothing: tokens are what is measured",
}
"""Arguments of transformers' `apply_chat_template` that are set here, and what to give instead."""

_MOST_WRITTEN: Final = 1_000_000
"""Characters that a template may add to the messages: its own system prompt, tools, documents."""
_LONGEST_CAUSE: Final = 300
_TRIED: WeakKeyDictionary[Any, set[tuple[str, str, bool]]] = WeakKeyDictionary()
"""The templates of each tokenizer that have run once in a child process; see `limits.py`."""
_CLOSED: Final = (
    "a chat ends with the assistant's message, and the template ends that turn: TuCo is read behind it; "
    "continue_final=True leaves the turn open"
)


class PromptNotice(UserWarning):
    """Says how an ambiguous prompt was read."""


class TemplateOptions(TypedDict, total=False):
    """How chats are rendered and texts tokenised, besides `chat` and `system`; taken wherever prompts are read."""

    prefill: str | None
    """What the answer begins with: text behind the opening of the assistant's turn, which stays open."""
    continue_final: bool
    """Leave the last message, the assistant's, open: no end of turn follows it, so that it can be continued."""
    tools: Sequence[Any] | None
    """Tools for every chat that names none itself: JSON schemas, or documented Python functions."""
    template_kwargs: Mapping[str, Any] | None
    """Variables for the template, such as `enable_thinking`; as `chat_template`, the name of another template."""
    special_tokens: SpecialTokens
    """"control": control tokens written out in a text or message are control tokens; "text": they are characters."""


def given_options(template: TemplateOptions) -> dict[str, Any]:
    """The options that differ from their defaults, as JSON takes them: Python functions as their schema."""
    given = {name: value for name, value in template.items() if value and value != "control"}
    if "tools" in given:
        given["tools"] = [_schema(tool) for tool in cast("Sequence[Any]", given["tools"])]
    return given


def _schema(tool: Any) -> Any:
    if not callable(tool):
        return tool
    from transformers.utils.chat_template_utils import get_json_schema

    return get_json_schema(tool)


@dataclass(frozen=True)
class ChatOptions:
    """`TemplateOptions`, checked."""

    prefill: str | None = None
    continue_final: bool = False
    tools: Sequence[Any] | None = None
    template_kwargs: Mapping[str, Any] | None = None
    special_tokens: SpecialTokens = "control"
    add_generation_prompt: bool = True
    """End with the template's opening of an answer, unless the last message is the assistant's."""

    def __post_init__(self) -> None:
        if self.special_tokens not in ("control", "text"):
            raise InputError("special_tokens", f"{self.special_tokens!r} is no choice", "give 'control' or 'text'")
        if self.prefill is not None and self.continue_final:
            raise InputError("prefill and continue_final", "both open the answer", "give one of the two")
        taken = next((name for name in self.template_kwargs or () if name in _OURS or name.startswith("return_")), None)
        if taken is not None:
            remedy = f"give {_OURS[taken]}" if taken in _OURS else "leave it out"
            raise InputError(f"template variable {taken}", "it is no variable of the template", remedy)

    @property
    def for_chats(self) -> list[str]:
        """Names of the given options that apply only to chats."""
        names = ("prefill", "continue_final", "tools", "template_kwargs")
        return [name for name in names if getattr(self, name)]


def check_messages(
    messages: Sequence[Any], *, system: str | None = None, name: str, options: ChatOptions | None = None
) -> list[dict[str, Any]]:
    """The messages as plain dictionaries, each content a string, with the system message first.

    Raises:
        InputError: naming the message that is invalid, or the option that does not go with the messages.
    """
    options = options or ChatOptions()
    checked = system_message(system)
    for number, message in enumerate(messages):
        where = f"{name}, message {number}"
        if not isinstance(message, Mapping):
            raise InputError(where, f"it is a {type(message).__name__}", 'write {"role": …, "content": …}')
        role: Any = message.get("role")  # pyright: ignore
        if role not in CHAT_ROLES:
            raise InputError(where, f"its role is {role!r}", f"use one of {', '.join(CHAT_ROLES)}")
        if role == "system" and system is not None:
            raise InputError(where, "it is a system message beside the system prompt given", "leave one of them out")
        checked.append(_checked(message, where))  # pyright: ignore
    if not checked:
        raise InputError(name, "it has no messages", "give it at least one, or leave it out")
    is_answered = checked[-1]["role"] == "assistant"
    if options.continue_final and not (is_answered and checked[-1]["content"]):
        raise InputError(name, "continue_final, and its last message is no text of the assistant", "give prefill=…")
    if options.prefill is not None:
        check_text(options.prefill, "the prefill")
        if is_answered:
            raise InputError(name, "a prefill, and its last message is the assistant's", "give continue_final=True")
    return checked


def system_message(system: str | None) -> list[dict[str, Any]]:
    """The system prompt as a list of messages: one or none."""
    return [] if system is None else [{"role": "system", "content": system}]


def check_text(text: str, name: str) -> None:
    """Raises `InputError` if the text is empty, blank or not valid Unicode; the message calls it `name`."""
    if not text.strip():
        raise InputError(name, "it is empty or only white space", "give it a text, or leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        why = (
            f"character {error.start} is the lone surrogate U+{ord(text[error.start]):04X}, which is not valid Unicode"
        )
        raise InputError(name, why, "replace that character") from None


def _checked(message: Mapping[str, Any], where: str) -> dict[str, Any]:
    calls = message.get("tool_calls")
    content = _content(message.get("content"), where, may_be_empty=bool(calls) and message["role"] == "assistant")
    checked = {str(key): value for key, value in message.items()} | {"content": content}
    if calls is not None:
        checked["tool_calls"] = _tool_calls(calls, where)
    return checked


def _content(content: Any, where: str, *, may_be_empty: bool) -> str:
    if may_be_empty and not content:
        return ""
    if isinstance(content, list | tuple) and content:
        content = "\n".join(_part(part, where) for part in content)  # pyright: ignore
    if not isinstance(content, str):
        raise InputError(where, f"its content is a {type(content).__name__}", "give the content as a string")  # pyright: ignore
    check_text(content, where)
    return content


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__  # pyright: ignore
    if kind != "text":
        raise InputError(where, f"its content has a part of type {kind!r}", "only text is measured: leave it out")
    text: Any = part.get("text")
    if not isinstance(text, str):
        raise InputError(where, "a part of its content has no text", 'write {"type": "text", "text": …}')
    return text


def _tool_calls(calls: Any, where: str) -> list[Any]:
    """The calls with their arguments parsed: APIs send them as a JSON string, templates expect an object."""
    if not isinstance(calls, list | tuple) or not all(isinstance(call, Mapping) for call in calls):  # pyright: ignore
        raise InputError(where, "its tool_calls are no list of objects", 'write [{"function": {"name": …}}]')
    checked: list[Any] = []
    for call in calls:  # pyright: ignore
        function: Any = call.get("function", call)  # pyright: ignore
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):  # pyright: ignore
            raise InputError(where, "a tool call has no function with a name", 'write {"function": {"name": …}}')
        arguments: Any = function.get("arguments")  # pyright: ignore
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except (ValueError, RecursionError) as error:
                raise InputError(where, f"the arguments of a tool call are no JSON ({error})", "mend them") from None
        function = {**function, "arguments": arguments}
        checked.append({**call, "function": function} if "function" in call else function)
    return checked


def render_chat(
    tokenizer: Any, messages: list[dict[str, Any]], options: ChatOptions, name: str
) -> tuple[str, list[Span]]:
    """The chat as the template renders it, and the spans of the messages' contents in it, ascending.

    Raises:
        InputError: if there is no template, it refuses the messages, or it does not allow the last one to stay open.
    """
    is_answered = messages[-1]["role"] == "assistant"
    if is_answered and not options.continue_final:
        warnings.warn(_CLOSED, PromptNotice, stacklevel=2)
    opens = options.add_generation_prompt and not is_answered
    render = partial(_render, tokenizer, options, opens=opens)
    rendered = _rendered(tokenizer, messages, options, render, name)
    spans = sorted(content_spans(messages, rendered, partial(_render_marked, render)), key=lambda span: span.start)
    if options.continue_final:
        return _left_open(messages[-1]["content"], rendered, spans, name)
    if options.prefill is not None:
        end = len(rendered) + len(options.prefill)
        return rendered + options.prefill, [*spans, Span(len(rendered), end, "assistant")]
    return rendered, spans


def _render(tokenizer: Any, options: ChatOptions, messages: Any, *, opens: bool) -> str:
    tools = list(options.tools or ()) or None  # an empty list would choose a template for tools
    more = dict(options.template_kwargs or {})
    with stopped_after():
        return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=opens, **more)


def _render_marked(render: Callable[[Any], str], messages: Any) -> str:
    try:
        return render(messages)
    except Exception:  # the template parses contents; it ran without markers
        return ""


def _rendered(
    tokenizer: Any, messages: list[dict[str, Any]], options: ChatOptions, render: Callable[[Any], str], name: str
) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        remedy = "measure raw text (without --chat), or give a tokenizer that has one"
        raise InputError(name, "the tuned model's tokenizer has no chat template", remedy)
    try:
        # Of several templates, transformers takes the one named, else one that may depend on whether there are tools.
        which = (str(template), str((options.template_kwargs or {}).get("chat_template")), bool(options.tools))
        if which not in _TRIED.setdefault(tokenizer, set()):
            try_in_child(partial(render, messages))
            _TRIED[tokenizer].add(which)
        rendered = render(messages)
    except LimitExceeded as error:
        why = f"the chat template is not fit to be run: {error}"
        raise InputError(name, why, "give a tokenizer with another template, or measure raw text") from None
    except Exception as error:  # a template may raise anything
        if any(message["role"] == "system" for message in messages):
            remedy = "put the system prompt into the first user message"
        else:
            remedy = "order the messages as the template wants them, mostly user, assistant, user, …"
        cause = cut(" ".join(str(error).split()), _LONGEST_CAUSE) or type(error).__name__
        raise InputError(name, f"the chat template refuses it ({cause})", remedy) from error
    _require_sane(rendered, messages, name)
    return rendered


def _require_sane(rendered: str, messages: list[dict[str, Any]], name: str) -> None:
    """Refuse what no sane template writes: nothing, invalid Unicode, or far more than the messages."""
    most = _MOST_WRITTEN + 10 * len(str(messages))
    if len(rendered) > most:
        why = f"the chat template writes {len(rendered):,} characters for {len(messages)} messages"
        raise InputError(name, why, "give a tokenizer with another template, or measure raw text")
    check_text(rendered, f"{name}, as the chat template writes it")


def _left_open(content: str, rendered: str, spans: list[Span], name: str) -> tuple[str, list[Span]]:
    """The chat up to the end of its last content, with the white space at its end that the template may have cut."""
    last = spans[-1] if spans else None
    written = "" if last is None else rendered[last.start : last.end]
    if last is None or last.role != "assistant" or written.strip() != content.strip():
        why = "continue_final, and the chat template does not write the last message as it is"
        raise InputError(name, why, "leave that message out, and give prefill=…")
    trimmed = content[len(content.rstrip()) :] if written == written.rstrip() else ""
    text = rendered[: last.end] + trimmed
    return text, [*spans[:-1], Span(last.start, len(text), "assistant")]


def tokens_of_chat(
    tokenizer: Any, rendered: str, spans: Sequence[Span], special_tokens: SpecialTokens, n_contents: int, name: str
) -> tuple[tuple[int, ...], tuple[Role, ...]]:
    """Ids and roles of a rendered chat; no special tokens are added to those that the template writes.

    Args:
        tokenizer: The tuned model's.
        rendered: From `render_chat`.
        spans: From `render_chat`; ascending.
        special_tokens: How control tokens inside the spans are read.
        n_contents: Number of contents that should have a span.
        name: What error messages call the prompt.

    Raises:
        InputError: if special tokens are to be text, and the tokenizer is slow or a content has no span.
    """
    if special_tokens == "text":
        if not tokenizer.is_fast or len(spans) < n_contents:
            who = (
                "the chat template does not write a message as it is" if tokenizer.is_fast else "the tokenizer is slow"
            )
            raise InputError(name, f"special_tokens='text', and {who}", "give 'control'")
        return _OnlyTheTemplates.of(tokenizer).encode(rendered, spans)
    encoding = tokenizer(
        rendered, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast), verbose=False
    )
    ids = tuple(encoding["input_ids"])
    if not tokenizer.is_fast:  # a slow tokenizer does not say which characters a token holds
        nothing: tuple[Role, ...] = ("template",) * len(ids)
        return ids, nothing
    return ids, roles_of_tokens(encoding["offset_mapping"], spans)


class _OnlyTheTemplates:
    """A copy of a fast tokenizer that reads control tokens as such only where the template writes them.

    There each goes by another name, which no text contains, and which splits the text around it as the token does.
    """

    _KNOWN: ClassVar[WeakKeyDictionary[Any, _OnlyTheTemplates]] = WeakKeyDictionary()

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import AddedToken

        special = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.names = {token.content: f"\ue002{number}\ue003" for number, token in special.items()}
        self.pattern = re.compile("|".join(map(re.escape, sorted(self.names, key=len, reverse=True))) or r"(?!)")
        self.backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self.backend.encode_special_tokens = True
        self.backend.add_tokens(
            [
                AddedToken(self.names[token.content], lstrip=token.lstrip, rstrip=token.rstrip, normalized=False)
                for token in special.values()
            ]
        )
        self.real = {self.backend.token_to_id(self.names[token.content]): n for n, token in special.items()}

    @classmethod
    def of(cls, tokenizer: Any) -> _OnlyTheTemplates:
        """The copy for this tokenizer, made once."""
        if tokenizer not in cls._KNOWN:
            cls._KNOWN[tokenizer] = cls(tokenizer)
        return cls._KNOWN[tokenizer]

    def encode(self, rendered: str, spans: Sequence[Span]) -> tuple[tuple[int, ...], tuple[Role, ...]]:
        """Ids and roles of a rendered chat with the messages' contents at `spans`."""
        text, cursor, moved = "", 0, list[Span]()
        for span in spans:
            text += self._renamed(rendered[cursor : span.start])
            moved.append(Span(len(text), len(text) + span.end - span.start, span.role))
            text += rendered[span.start : span.end]
            cursor = span.end
        encoding = self.backend.encode(text + self._renamed(rendered[cursor:]), add_special_tokens=False)
        return tuple(self.real.get(number, number) for number in encoding.ids), roles_of_tokens(encoding.offsets, moved)

    def _renamed(self, template: str) -> str:
        return self.pattern.sub(lambda found: self.names[found[0]], template)
