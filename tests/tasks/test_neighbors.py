"""The vote of neighbours: a naive loop gives the same, and thresholds are those of the reference itself."""

import numpy as np
import pytest

from cellfm.tasks.annotation import _neighbors
from cellfm.tasks.annotation._hold_out import hold_out
from cellfm.tasks.annotation._neighbors import HELD_OUT, fit_neighbor_vote

N_NEIGHBORS = 7


@pytest.fixture(scope="module")
def cells() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.repeat(["B", "A", "C"], [30, 40, 50])
    centres = {"A": 0.8, "B": -0.8, "C": 0.1}
    embedding = generator.normal(size=(120, 16)) + np.array([centres[name] for name in labels])[:, None]
    order = generator.permutation(120)
    return embedding[order].astype(np.float32), labels[order]


def naive(cell, reference, labels, classes):
    cosines = [cell @ other / (np.linalg.norm(cell) * np.linalg.norm(other)) for other in reference]
    votes = dict.fromkeys(classes, 0.0)
    for i in sorted(range(len(reference)), key=lambda i: -cosines[i])[:N_NEIGHBORS]:
        votes[labels[i]] += max(cosines[i], 1e-6)
    return np.array(list(votes.values())) / sum(votes.values())


def test_a_naive_loop_gives_the_same(cells, monkeypatch):
    monkeypatch.setattr(_neighbors, "_BLOCK", 9)
    embedding, labels = cells
    vote = fit_neighbor_vote(embedding[:100], labels[:100], N_NEIGHBORS)
    found = vote.predict(embedding[100:])
    assert vote.classes == ("A", "B", "C")
    for i, cell in enumerate(embedding[100:]):
        shares = naive(cell, embedding[:100], labels[:100], vote.classes)
        np.testing.assert_allclose(found.probabilities[i], shares, atol=1e-5)


def test_the_threshold_is_that_of_cells_without_their_own_vote(cells, monkeypatch):
    monkeypatch.setattr(_neighbors, "_BLOCK", 9)
    embedding, labels = cells
    vote = fit_neighbor_vote(embedding, labels, N_NEIGHBORS)
    held = np.flatnonzero(hold_out(vote.codes, HELD_OUT))
    confidence = [
        naive(embedding[i], np.delete(embedding, i, 0), np.delete(labels, i), vote.classes).max() for i in held
    ]
    assert len(held) > 10
    assert vote.confidence_threshold == pytest.approx(min(confidence), abs=1e-5)  # fewer than 1 / 2.5 % of them


def test_few_reference_cells_are_rejected_and_strangers_are(cells):
    embedding, labels = cells
    vote = fit_neighbor_vote(embedding, labels)
    assert (vote.predict(embedding).distance > vote.distance_threshold).mean() < 0.15
    strangers = embedding + 10 * np.eye(16, dtype=np.float32)[0]
    assert (vote.predict(strangers).distance > vote.distance_threshold).all()


def test_the_length_of_an_embedding_does_not_matter_to_the_vote(cells):
    embedding, labels = cells
    found = fit_neighbor_vote(embedding, labels).predict(embedding)
    longer = fit_neighbor_vote(embedding * 3, labels).predict(embedding * 0.1)
    np.testing.assert_allclose(longer.probabilities, found.probabilities, atol=1e-4)


def test_cells_without_embedding_have_no_probability(cells):
    embedding, labels = cells
    query = embedding[:3].copy()
    query[1] = np.nan
    found = fit_neighbor_vote(embedding, labels).predict(query)
    np.testing.assert_array_equal(np.isnan(found.distance), [False, True, False])
    np.testing.assert_array_equal(np.isnan(found.probabilities).any(1), [False, True, False])


def test_few_reference_cells_all_vote(cells):
    embedding, labels = cells
    vote = fit_neighbor_vote(embedding[:4], labels[:4], n_neighbors=15)
    assert vote.n_neighbors == 3
    assert np.isfinite(vote.predict(embedding).probabilities).all()
    assert (vote.confidence_threshold, vote.distance_threshold) == (0, np.inf)  # too few to hold any out
