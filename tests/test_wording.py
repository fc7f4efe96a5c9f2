"""Numbers agree with their nouns."""

import pytest

from cellfm._wording import counted


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0 genes"), (1, "1 gene"), (2, "2 genes"), (1_234, "1,234 genes"), (-1, "-1 genes")]
)
def test_only_one_is_singular(n, words):
    assert counted(n, "gene") == words


def test_words_that_go_with_the_noun():
    assert counted(1, "cell is", "cells are") == "1 cell is"
    assert counted(3, "cell is", "cells are") == "3 cells are"
    assert counted(0, "box", "boxes") == "0 boxes"
