"""Laws of tokenising: one BOS, roles that follow the template, tokens that read as the text, batches without loss."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuco_lens.engine.batches import length_sorted_batches, right_pad
from tuco_lens.errors import InputError
from tuco_lens.prompts import Prompt, fit, make_prompt
from tuco_lens.prompts.prompt import as_prompt_list, is_one_prompt
from tuco_lens.prompts.spans import Span, roles_of_tokens

CHATML = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Trims contents, and puts the system prompt into the first user message, as Llama 2 does.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' }}{% if loop.index0 == 0 and system %}{{ '<<SYS>>' + system + '<</SYS>>' }}{% endif %}"
    "{{ m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
)
# Shows only what follows the last "#" of a content, so that markers do not stand for contents.
TAKES_APART = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'].split('#')[-1] + '|' }}{% endfor %}"

LINES = [
    "the user asks the assistant about the weather in the old town",
    "Über den Wolken, naïve café",
    "1 2 3 four",
] * 9


@cache
def byte_level(template: str | None = CHATML) -> Any:
    """A byte-level BPE tokenizer that adds a BOS to whatever it reads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(LINES, trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token=specials[0], eos_token=specials[2])
    tokenizer.chat_template = template
    return tokenizer


@cache
def sentencepiece_like() -> Any:
    """A BPE tokenizer with `▁` for spaces and bytes for unknown characters, as Llama's; it adds no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=420, special_tokens=specials, show_progress=False))
    state = json.loads(core.to_str())
    state["added_tokens"] = state["added_tokens"][:3]  # the trainer calls the bytes special tokens, which they are not
    core = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def chat(*contents: str, first: str = "user") -> list[dict[str, str]]:
    other = {"system": "user", "user": "assistant", "assistant": "user"}
    messages, role = [], first
    for content in contents:
        messages.append({"role": role, "content": content})
        role = other[role]
    return messages


def text_of(prompt: Prompt, role: str) -> str:
    return "".join(token for token, is_role in zip(prompt.tokens, prompt.roles, strict=True) if is_role == role)


def check_lengths(prompt: Prompt) -> None:
    assert len(prompt.token_ids) == len(prompt.tokens) == len(prompt.roles) == prompt.n_tokens > 0


def test_raw_text_gets_a_bos_if_and_only_if_the_tokenizer_adds_one() -> None:
    with_bos = make_prompt(byte_level(), "the weather")
    assert with_bos.token_ids.count(0) == 1
    assert with_bos.token_ids[0] == 0
    assert with_bos.has_bos
    assert with_bos.roles[0] == "template"
    assert set(with_bos.roles[1:]) == {"text"}
    without = make_prompt(sentencepiece_like(), "the weather")
    assert 1 not in without.token_ids
    assert not without.has_bos


def test_a_chat_whose_template_writes_a_bos_has_exactly_one() -> None:
    prompt = make_prompt(byte_level(), "the weather", chat=True)
    assert prompt.token_ids.count(0) == 1
    assert prompt.token_ids[0] == 0
    assert prompt.has_bos
    assert prompt.text == "<|endoftext|><|im_start|>user\nthe weather<|im_end|>\n<|im_start|>assistant\n"
    assert "".join(prompt.tokens) == prompt.text


def test_a_text_asked_for_as_a_chat_is_one_user_message() -> None:
    assert make_prompt(byte_level(), "hello", chat=True) == make_prompt(byte_level(), chat("hello"))


def test_a_system_prompt_is_a_system_message_in_front() -> None:
    given_apart = make_prompt(byte_level(), "hello", chat=True, system="be kind")
    assert given_apart == make_prompt(byte_level(), chat("be kind", "hello", first="system"))
    assert text_of(given_apart, "system") == "be kind"


def test_the_opening_of_an_answer_is_written_unless_the_assistant_spoke_last_or_it_is_not_wanted() -> None:
    opening = "<|im_start|>assistant\n"
    assert make_prompt(byte_level(), chat("hello")).text.endswith(opening)
    assert not make_prompt(byte_level(), chat("hello", "hi")).text.endswith(opening)
    assert not make_prompt(byte_level(), chat("hello"), add_generation_prompt=False).text.endswith(opening)


@pytest.mark.parametrize(
    "contents",
    [
        ("hello there", "hi"),
        ("user", "assistant"),
        ("user\nuser", "user", "user"),
        ("<|im_start|>", "\n"),
        (".", ".", "."),
    ],
)
def test_roles_cover_the_contents_and_nothing_of_the_template(contents: tuple[str, ...]) -> None:
    if any(not content.strip() for content in contents):
        contents = tuple(content.strip() or "x" for content in contents)
    prompt = make_prompt(byte_level(), chat(*contents))
    check_lengths(prompt)
    assert text_of(prompt, "user") == "".join(contents[0::2])
    assert text_of(prompt, "assistant") == "".join(contents[1::2])
    assert (
        text_of(prompt, "template").replace("\n", "").endswith("<|im_end|>" if len(contents) % 2 == 0 else "assistant")
    )


def test_roles_follow_a_template_that_trims_and_moves_contents() -> None:
    messages = chat("  be kind", "  the weather \n", " fine ", "thanks", first="system")
    prompt = make_prompt(byte_level(LLAMA2), messages)
    assert text_of(prompt, "user").replace(" ", "") == "theweatherthanks"
    assert text_of(prompt, "assistant").strip() == "fine"
    assert "be kind" in prompt.text
    assert "INST" not in text_of(prompt, "user")


def test_roles_are_found_by_search_where_the_template_takes_contents_apart() -> None:
    prompt = make_prompt(byte_level(TAKES_APART), chat("hello", "hidden#"))
    assert text_of(prompt, "user") == "hello"
    assert "assistant" not in prompt.roles  # its content is not in the text


def test_a_token_that_straddles_a_message_and_the_template_is_the_messages() -> None:
    spans = [Span(2, 5, "user"), Span(7, 9, "assistant")]
    offsets = [(0, 2), (1, 3), (3, 3), (4, 6), (5, 7), (7, 9), (9, 10)]
    expected = ("template", "user", "template", "user", "template", "assistant", "template")
    assert roles_of_tokens(offsets, spans) == expected


@given(st.text(alphabet=st.characters(codec="utf-8"), min_size=1, max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_unicode_text_makes_a_prompt_or_is_called_empty(text: str) -> None:
    for tokenizer in (byte_level(), sentencepiece_like()):
        if text.strip():
            check_lengths(make_prompt(tokenizer, text))
        else:
            with pytest.raises(InputError, match="empty"):
                make_prompt(tokenizer, text)


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None)
def test_any_chat_has_one_bos_of_the_template_and_a_role_for_each_token(contents: list[str]) -> None:
    prompt = make_prompt(byte_level(), chat(*contents))
    check_lengths(prompt)
    assert prompt.token_ids[0] == 0
    assert prompt.token_ids[1] != 0
    assert "user" in prompt.roles


@given(st.text(alphabet=st.characters(codec="ascii"), min_size=1).filter(str.strip))
@settings(max_examples=100, deadline=None)
def test_the_tokens_put_together_read_as_the_text(text: str) -> None:
    prompt = make_prompt(byte_level(), text)
    assert "".join(prompt.tokens) == "<|endoftext|>" + text


def test_tokens_of_a_sentencepiece_vocabulary_keep_their_spaces() -> None:
    prompt = make_prompt(sentencepiece_like(), "the old town")
    assert "".join(prompt.tokens) == " the old town"


@pytest.mark.parametrize("tokenizer", [byte_level, sentencepiece_like])
def test_a_token_that_is_a_part_of_a_character_is_shown_as_a_replacement_character(tokenizer: Any) -> None:
    assert "\ufffd" in make_prompt(tokenizer(), "fine 😀").tokens


@pytest.mark.parametrize(
    "text", ["a\0b", "\x1b[31mred", "x" * 10_000, "שלום עולם", "👩‍👩‍👧", "\u202eabc", "</script>", "[red]"]
)
def test_hostile_texts_are_tokenised_unchanged(text: str) -> None:
    prompt = make_prompt(byte_level(), text)
    check_lengths(prompt)
    assert prompt.text == text
    assert byte_level().decode(prompt.token_ids[1:]) == text


def test_token_ids_are_taken_as_they_are() -> None:
    ids = make_prompt(byte_level(), "the weather").token_ids
    from_ids = make_prompt(byte_level(), list(ids))
    assert from_ids.token_ids == ids
    assert from_ids.roles[0] == "template"
    assert from_ids.text == "<|endoftext|>the weather"


def test_a_tensor_of_ids_is_a_list_of_ids() -> None:
    torch = pytest.importorskip("torch")
    assert make_prompt(byte_level(), torch.tensor([0, 5, 6])) == make_prompt(byte_level(), [0, 5, 6])
    for ids in (torch.tensor([0, 5, 6]), torch.tensor([0, 5, 6]).numpy()):
        assert is_one_prompt(ids)
        assert as_prompt_list(ids) == [[0, 5, 6]]
    assert as_prompt_list(torch.tensor([[0, 5], [6, 7]])) == [[0, 5], [6, 7]]


def test_a_tokenised_prompt_comes_back_as_it_is() -> None:
    prompt = make_prompt(byte_level(), "hello")
    assert make_prompt(byte_level(), prompt, chat=True) is prompt


BAD: list[tuple[str, Any, dict[str, Any], str]] = [
    ("empty text", "", {}, "prompt 3: it is empty"),
    ("blank text", " \n\t", {}, "prompt 3: it is empty"),
    ("only a BOS", "<|endoftext|>", {}, "prompt 3: no token is left"),
    ("no ids", [], {}, "prompt 3: it is empty"),
    ("lone surrogate", "ab\ud800", {}, r"prompt 3: character 2 is the lone surrogate U\+D800"),
    ("surrogate in a message", chat("hi", "\udcff"), {}, "prompt 3, message 1: character 0"),
    ("id above the vocabulary", [1, 99_999], {}, "no token of id 99999"),
    ("id above 64 bits", [1, 2**70], {}, "no token of id"),
    ("negative id", [1, -1], {}, "no token of id -1"),
    ("booleans", [True, False], {}, "list of bool"),
    ("mixed", [1, {"role": "user", "content": "x"}], {}, "list of dict, int"),
    ("list of texts", ["a", "b"], {}, "list of str"),
    ("bytes", b"abc", {}, "bytes is neither"),
    ("none", None, {}, "NoneType is neither"),
    ("unknown role", [{"role": "narrator", "content": "x"}], {}, "message 0: its role is 'narrator'"),
    ("no role", [{"content": "x"}], {}, "message 0: its role is None"),
    ("no content", [*chat("a", "b"), {"role": "user"}], {}, "message 2: its content is a NoneType"),
    ("content of parts", [{"role": "user", "content": [{"text": "x"}]}], {}, "a part of type None"),
    ("empty content", chat("a", " "), {}, "message 1: it is empty"),
    (
        "two system prompts",
        chat("be kind", "hi", first="system"),
        {"system": "no"},
        "message 0: it is a system message",
    ),
    ("system prompt for raw text", "hi", {"system": "be kind"}, "system prompt was given for raw text"),
    ("blank system prompt", "hi", {"system": " ", "chat": True}, "the system prompt: it is empty"),
    ("chat of ids", [1, 2], {"chat": True}, "token ids cannot go through a chat template"),
]


@pytest.mark.parametrize(("prompt", "options", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_prompt_is_refused_by_its_index(prompt: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_prompt(byte_level(), prompt, index=3, **options)


def test_without_a_chat_template_the_error_names_the_remedy() -> None:
    with pytest.raises(InputError, match=r"no chat template; measure raw text \(without --chat\)"):
        make_prompt(byte_level(None), "hi", chat=True)


def test_a_template_that_refuses_a_system_prompt_is_quoted_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"System role not supported\); put the system prompt into the first user"):
        make_prompt(byte_level(NO_SYSTEM), "hi", chat=True, system="be kind")


def numbered(n_tokens: int, *, has_bos: bool) -> Prompt:
    ids = tuple(range(n_tokens))
    return Prompt("text", ids, tuple(str(token_id) for token_id in ids), ("text",) * n_tokens, has_bos=has_bos)


def test_a_prompt_that_fits_is_not_touched() -> None:
    prompt = numbered(5, has_bos=True)
    assert fit(prompt, 5, truncate="left") is prompt
    assert fit(prompt, None) is prompt


def test_a_prompt_that_is_too_long_is_refused_with_both_lengths_and_the_remedy() -> None:
    with pytest.raises(InputError, match=r"prompt 7: it has 9 tokens, and the context is 5 tokens; .*--truncate left"):
        fit(numbered(9, has_bos=False), 5, index=7)


@given(st.integers(2, 40), st.integers(1, 40), st.sampled_from(["left", "right"]), st.booleans())
def test_truncation_keeps_the_asked_end_and_the_bos(n_tokens: int, n_ctx: int, side: Any, has_bos: bool) -> None:
    prompt = fit(numbered(n_tokens, has_bos=has_bos), n_ctx, truncate=side)
    check_lengths(prompt)
    assert prompt.n_tokens == min(n_tokens, n_ctx)
    assert prompt.n_dropped == n_tokens - prompt.n_tokens
    assert prompt.tokens == tuple(str(token_id) for token_id in prompt.token_ids)
    ids = list(prompt.token_ids)
    if side == "right":
        assert ids == list(range(prompt.n_tokens))
    elif has_bos and n_ctx > 1:
        assert ids == [0, *range(n_tokens - prompt.n_tokens + 1, n_tokens)]
    else:
        assert ids == list(range(n_tokens - prompt.n_tokens, n_tokens))
    assert prompt.has_bos == (has_bos and ids[0] == 0)


def test_a_misspelt_side_of_truncation_is_refused() -> None:
    with pytest.raises(InputError, match="'middle' is not a side"):
        fit(numbered(3, has_bos=False), 2, truncate="middle")  # type: ignore[arg-type]


def test_an_id_outside_the_embedding_is_refused() -> None:
    with pytest.raises(InputError, match="token id 4 is outside the tuned model's vocabulary, 0 … 3"):
        fit(numbered(9, has_bos=False), 20, d_vocab=4)
    assert fit(numbered(9, has_bos=False), 20, d_vocab=9).n_tokens == 9


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 9), st.none() | st.integers(1, 900))
def test_batches_hold_each_prompt_once_within_their_limits(
    lengths: list[int], batch_size: int, max_tokens: int | None
) -> None:
    batches = length_sorted_batches(lengths, batch_size, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert 1 <= len(batch) <= batch_size
        assert max_tokens is None or len(batch) == 1 or longest * len(batch) <= max_tokens
    in_order = [lengths[index] for batch in batches for index in batch]
    assert in_order == sorted(lengths, reverse=True)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 9))
def test_without_a_token_limit_there_are_no_more_batches_than_needed(lengths: list[int], batch_size: int) -> None:
    assert len(length_sorted_batches(lengths, batch_size)) == -(-len(lengths) // batch_size)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size: it is 0"):
        length_sorted_batches([1, 2], 0)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 500))
@settings(deadline=None)
def test_right_padding_keeps_each_prompt_at_the_left(lengths: list[int], pad_id: int) -> None:
    ids = right_pad([numbered(length, has_bos=False) for length in lengths], pad_id)
    assert ids.shape == (len(lengths), max(lengths))
    for row, length in zip(ids.tolist(), lengths, strict=True):
        assert row == [*range(length), *[pad_id] * (max(lengths) - length)]
