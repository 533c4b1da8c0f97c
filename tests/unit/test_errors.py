"""`tuco_lens.errors`: one line per error, whatever its parts contain."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuco_lens.errors import InputError, LoadError, OutputError, PairMismatchError, TucoLensError

ERROR_CLASSES = [TucoLensError, LoadError, PairMismatchError, InputError, OutputError]


def test_the_message_is_what_why_remedy():
    error = InputError("prompts.txt", "the file is empty", "write a prompt on each line")
    assert str(error) == "prompts.txt: the file is empty; write a prompt on each line"
    assert (error.what, error.why, error.remedy) == ("prompts.txt", "the file is empty", "write a prompt on each line")


@given(st.text(), st.text(), st.text())
def test_the_message_is_one_printable_line_whatever_the_parts(what: str, why: str, remedy: str):
    message = str(TucoLensError(what, why, remedy))
    assert message.isprintable()
    assert len(message.splitlines()) == 1


def test_line_breaks_and_terminal_controls_are_escaped_not_dropped():
    message = str(LoadError("a\nb", "\x1b[31mred\x07 \u2028", "c\r\td\u202e"))
    assert message == r"a\nb: \x1b[31mred\x07; c\r\td\u202e"


def test_letters_of_every_script_and_backslashes_are_kept():
    assert str(LoadError(r"C:\models\new", "größe ≠ 尺寸", "β")) == r"C:\models\new: größe ≠ 尺寸; β"


@pytest.mark.parametrize("error_class", ERROR_CLASSES)
def test_an_error_survives_pickle_and_copy(error_class: type[TucoLensError]):
    error = error_class("what\n", "why", "remedy")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is error_class
        assert (twin.what, twin.why, twin.remedy) == ("what\n", "why", "remedy")
        assert str(twin) == str(error)


def test_a_pair_mismatch_is_caught_as_a_load_error():
    with pytest.raises(LoadError):
        raise PairMismatchError("layers", "base has 2, tuned has 3", "give the base model of this fine-tune")
    assert not issubclass(InputError, LoadError)
    assert all(issubclass(error_class, TucoLensError) for error_class in ERROR_CLASSES)
