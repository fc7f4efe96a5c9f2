"""Numbers agree with their nouns."""

import pytest

from cellfm.io.messages import counted, counted_of


@pytest.mark.parametrize(
    ("n", "words"), [(0, "0 genes"), (1, "1 gene"), (2, "2 genes"), (1_234, "1,234 genes"), (-1, "-1 genes")]
)
def test_only_one_is_singular(n, words):
    assert counted(n, "gene") == words


def test_words_that_go_with_the_noun():
    assert counted(1, "cell is", "cells are") == "1 cell is"
    assert counted(3, "cell is", "cells are") == "3 cells are"
    assert counted(0, "batch") == "0 batches"
    assert counted(1, "batch") == "1 batch"


def test_the_verb_follows_the_part_and_the_noun_the_whole():
    assert counted_of(1, 700, "cell", "expresses", "express") == "1 of 700 cells expresses"
    assert counted_of(2, 1_700, "cell", "expresses", "express") == "2 of 1,700 cells express"
    assert counted_of(1, 1, "gene") == "1 of 1 gene is"
