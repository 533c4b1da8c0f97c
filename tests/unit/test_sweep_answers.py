"""Answer tokens: what each kind of tokenizer writes behind a prompt, which spelling is taken, and who wins a tie."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.pairs import byte_tokenizer
from tuco_lens.errors import InputError
from tuco_lens.pair import DEMO_FOLDER
from tuco_lens.prompts.prompt import make_prompt
from tuco_lens.sweep.answers import NONE, answer_tokens, chosen_answer


@pytest.fixture(scope="module")
def demo() -> Any:
    """A byte-level BPE with a BOS and a chat template."""
    return AutoTokenizer.from_pretrained(DEMO_FOLDER / "tuned")


def metaspace(words: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer in the manner of Llama 2: a space is ▁, one is put before every text, and digits stand alone."""
    pieces = ["<s>", "<unk>", "▁", *"0123456789:?", *words]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    split = pre_tokenizers.Split("▁", "merged_with_next")
    apart = [pre_tokenizers.Split(mark, "isolated") for mark in "0123456789:?"]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, *apart])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def tokens(tokenizer: Any, prompt: Any, answers: list[str], *, chat: bool = False) -> list[str]:
    made = make_prompt(tokenizer, prompt, chat=chat)
    ids = answer_tokens(tokenizer, made, answers, is_chat=chat, name="question 0")
    return tokenizer.convert_ids_to_tokens(list(ids))


@pytest.mark.parametrize("answers", [["A", "B"], [" A", " B"], ["A", " B\n"]])
def test_the_white_space_that_the_data_has_around_answers_does_not_count(demo: Any, answers: list[str]) -> None:
    assert tokens(demo, "Answer:", answers) == ["ĠA", "ĠB"]


def test_a_prompt_that_ends_in_white_space_is_followed_at_once(demo: Any) -> None:
    assert tokens(demo, "Answer:\n", ["Yes", "No"]) == ["Yes", "No"]


def test_an_answer_of_a_chat_opens_the_assistants_turn_without_a_space(demo: Any) -> None:
    assert tokens(demo, "Is it?", [" Yes", " No"], chat=True) == ["Yes", "No"]


def test_a_wide_character_is_followed_at_once() -> None:
    tokenizer = byte_tokenizer()
    assert tokens(tokenizer, "答案：", ["A", "B"]) == ["A", "B"]


def test_an_answer_of_several_tokens_is_known_by_its_first(demo: Any) -> None:
    first, second = tokens(demo, "Is it?", ["Yes, quite so", "No, I would not"])
    assert (first, second) == ("ĠYes", "ĠNo")


def test_a_tokenizer_that_sets_the_space_apart_falls_back_to_the_bare_answer() -> None:
    tokenizer = metaspace(["▁Answer", "▁yes", "▁no", "yes", "no"])
    assert tokens(tokenizer, "Answer:", ["yes", "no"]) == ["▁yes", "▁no"]
    # " 1" and " 2" are ▁ 1 and ▁ 2 here: their first tokens are one and the same, without the space they differ.
    assert tokens(tokenizer, "Answer:", ["1", "2"]) == ["1", "2"]


def test_a_prompt_whose_last_space_joins_the_answer_falls_back_to_the_other_spelling(demo: Any) -> None:
    # "Answer: " ends in the token Ġ; "Answer: Yes" has ĠYes instead, and so does not go on from the prompt's tokens.
    assert tokens(demo, "Answer: ", ["Yes", "No"]) == ["ĠYes", "ĠNo"]


@pytest.mark.parametrize("chat", [False, True])
def test_answers_that_share_their_first_token_are_named_both(demo: Any, chat: bool) -> None:
    with pytest.raises(InputError, match=r"question 0: .*'Yes, a'.*'Yes, b' begin with the same token"):
        tokens(demo, "Which?", ["No", "Yes, a", "Yes, b"], chat=chat)


def test_bytes_share_the_space_and_so_the_bare_answers_are_taken() -> None:
    assert tokens(byte_tokenizer(), "Answer:", ["Yes", "No"]) == ["Y", "N"]


def test_an_answer_that_merges_with_the_prompts_end_is_refused_whatever_the_spelling() -> None:
    # One token for the whole text, so nothing goes on from the prompt's.
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "x": 1, "xyes": 2, "x yes": 3, "xno": 4, "x no": 5}, "<unk>"))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    with pytest.raises(InputError, match="joins its answer 'yes' with the end of the prompt"):
        tokens(fast, "x", ["yes", "no"])


@given(st.sampled_from(["Is it?", "Answer:", "So\n", "(", "a b c", "Say 'x'"]), st.permutations(["Yes", "No", "Maybe"]))
def test_the_token_is_the_one_behind_the_prompts_own_tokens(prompt: str, answers: list[str]) -> None:
    tokenizer = byte_tokenizer()
    made = make_prompt(tokenizer, prompt)
    ids = answer_tokens(tokenizer, made, answers, is_chat=False, name="q")
    # Bytes never merge, so the tokens are the letters whatever the prompt.
    assert tokenizer.convert_ids_to_tokens(list(ids)) == [answer[0] for answer in answers]


@given(st.lists(st.floats(allow_nan=True), min_size=2, max_size=6))
def test_the_chosen_answer_is_strictly_above_all_others_or_none(logits: list[float]) -> None:
    chosen = chosen_answer(logits)
    winners = [i for i, x in enumerate(logits) if all(x > y for j, y in enumerate(logits) if j != i)]
    assert winners == ([] if chosen == NONE else [chosen])


def test_ties_and_nan_choose_none() -> None:
    assert chosen_answer([1.0, 2.0, 2.0]) == NONE
    assert chosen_answer([1.0, math.nan]) == NONE
    assert chosen_answer([math.nan, 1.0]) == NONE
    assert chosen_answer([1.0, 1.0, 2.0]) == 2
