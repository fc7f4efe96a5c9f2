"""Graphs and modules of genes, and their enrichment: laws and the kept library's numbers."""

import time

import gseapy
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, fisher_exact

from cellfm.errors import DownloadError, InputError
from cellfm.tasks.genes import (
    _enrich,
    enriched_terms,
    leiden_modules,
    match_sets,
    neighbour_graph,
    over_representation,
    random_modules,
    read_gene_sets,
)
from cellfm.tasks.genes import _graph as graphs
from cellfm.tasks.genes._graph import by_size, standardised_expression, strongest


@pytest.fixture
def clouds():
    """Three clouds of 30, 20 and 10 points in directions of their own."""
    generator = np.random.default_rng(0)
    centre = np.repeat(np.eye(8)[:3], [30, 20, 10], axis=0)
    return centre + 0.1 * generator.standard_normal((60, 8))


def test_neighbours_are_those_of_a_naive_search(clouds):
    found = neighbour_graph(clouds, 4)
    unit = clouds / np.linalg.norm(clouds, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    expected = np.zeros_like(cosine)
    for i, row in enumerate(cosine):
        for j in np.argsort(-row)[:4]:
            expected[i, j] = expected[j, i] = cosine[i, j]
    np.testing.assert_allclose(found.toarray(), expected, atol=1e-6)


@pytest.mark.slow
def test_approximate_neighbours_are_nearly_the_exact_ones(clouds, monkeypatch):
    exact = neighbour_graph(clouds, 4)
    monkeypatch.setattr(graphs, "EXACT_GENES", 10)
    assert ((neighbour_graph(clouds, 4) > 0).multiply(exact > 0)).nnz > 0.9 * exact.nnz


@pytest.mark.parametrize("flavor", ["igraph", "leidenalg"])
def test_modules_are_the_clouds_whatever_the_order(clouds, flavor):
    order = np.random.default_rng(1).permutation(60)
    modules = leiden_modules(neighbour_graph(clouds, 5), [0.3], min_genes=5, flavor=flavor)[:, 0]
    assert modules.tolist() == [0] * 30 + [1] * 20 + [2] * 10
    shuffled = leiden_modules(neighbour_graph(clouds[order], 5), [0.3], min_genes=5, flavor=flavor)[:, 0]
    np.testing.assert_array_equal(shuffled, modules[order])


@pytest.mark.parametrize("flavor", ["igraph", "leidenalg"])
def test_higher_resolution_gives_more_modules_and_a_seed_the_same_ones(clouds, flavor):
    graph = neighbour_graph(clouds, 5)
    found, again = (
        leiden_modules(graph, [0.3, 3.0, 12.0], min_genes=1, random_state=3, flavor=flavor) for _ in range(2)
    )
    assert (np.diff(found.max(0)) > 0).all()
    np.testing.assert_array_equal(found, again)


def test_small_modules_are_dropped_and_the_others_numbered_by_size():
    assert by_size(np.array([7, 7, 2, 2, 2, 9, -1]), 2).tolist() == [1, 1, 0, 0, 0, -1, -1]


def test_random_modules_keep_the_sizes():
    modules = np.array([0, 0, 0, 1, 1, -1])
    drawn = random_modules(modules, np.random.default_rng(0))
    assert np.bincount(drawn + 1).tolist() == np.bincount(modules + 1).tolist()


def test_products_of_standardised_expression_are_correlations():
    values = np.random.default_rng(0).poisson(1.0, (50, 6)).astype(np.float32)
    rows = standardised_expression(sp.csr_matrix(values))
    np.testing.assert_allclose(rows @ rows.T, np.corrcoef(values.T), atol=1e-5)


def test_strongest_pairs_are_near_by_any_matrix():
    one = np.array([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]])
    other = np.array([[1.0, 0.1, 0.8], [0.1, 1.0, -0.5], [0.8, -0.5, 1.0]])
    assert strongest([one], 1) == [(0, 1), (1, 2)]
    assert strongest([one, other], 1) == [(0, 1), (0, 2), (1, 2)]


@pytest.fixture
def tested():
    genes = np.array([f"G{i}" for i in range(200)])
    modules = np.repeat([0, 1, 2, -1], 50)
    generator = np.random.default_rng(0)
    sets = {f"term {i}": list(generator.choice(genes, 20, replace=False)) for i in range(12)}
    sets["of the first"] = [*genes[:18], *genes[150:152], "ELSEWHERE"]
    return genes, modules, sets


def test_enrichment_has_the_numbers_of_gseapy(tested):
    genes, modules, sets = tested
    terms, members = match_sets(sets, genes)
    table = over_representation(np.where(modules == 0, 0, -1), terms, members, genes).set_index("term")
    kept = {term: [gene for gene in names if gene in set(genes)] for term, names in sets.items()}
    theirs = gseapy.enrich(list(genes[:50]), kept, background=list(genes), outdir=None).results.set_index("Term")
    assert set(theirs.index) == set(table.index)
    np.testing.assert_allclose(table["p_value"][theirs.index], theirs["P-value"].astype(float), rtol=1e-9)
    np.testing.assert_allclose(table["p_adjusted"][theirs.index], theirs["Adjusted P-value"].astype(float), rtol=1e-9)
    first = table.loc["of the first"]
    assert table.index[0] == "of the first"
    assert (first["overlap"], first["module_size"], first["term_size"]) == (18, 50, 20)
    assert set(first["genes"].split(";")) == set(genes[:18])
    assert first["odds_ratio"] == pytest.approx(18 * (200 - 50 - 20 + 18) / ((50 - 18) * (20 - 18)))


def test_only_true_enrichment_is_found(tested):
    genes, modules, sets = tested
    terms, members = match_sets(sets, genes)
    assert enriched_terms(modules, terms, members, 0.01) == {"of the first"}
    assert not enriched_terms(np.full(200, -1), terms, members, 0.05)


@st.composite
def partitions(draw):
    """Modules of 120 genes, some of none, and gene sets, many of which share nothing with some modules."""
    n_modules = draw(st.integers(1, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    modules = by_size(generator.integers(-1, n_modules, 120), draw(st.integers(1, 8)))
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=15))
    members = np.zeros((len(sizes), 120), np.float32)
    for row, size in zip(members, sizes, strict=True):
        row[generator.choice(120, size, replace=False)] = 1
    return modules, members


@settings(deadline=None, max_examples=30)
@given(partitions())
def test_p_values_are_adjusted_over_all_pairs_of_module_and_set(partition):
    modules, members = partition
    found = _enrich.tests_of(modules, sp.csr_matrix(members))
    pairs = [(module, term) for module in range(modules.max() + 1) for term in range(len(members))]
    crossed = [
        [[(one & other).sum() for other in (members[term] > 0, members[term] == 0)] for one in (inside, ~inside)]
        for inside, term in ((modules == module, term) for module, term in pairs)
    ]
    p = np.array([fisher_exact(table, alternative="greater").pvalue for table in crossed])
    assert _enrich.n_tests(modules, sp.csr_matrix(members)) == len(pairs)
    adjusted = dict(zip(pairs, false_discovery_control(p) if len(p) else p, strict=True))
    listed = list(zip(found.module, found.term, strict=True))
    assert set(listed) == {pair for pair in pairs if members[pair[1], modules == pair[0]].any()}
    np.testing.assert_allclose(found.p_adjusted, [adjusted[pair] for pair in listed], rtol=1e-9)


def test_random_modules_are_enriched_in_few_draws():
    """Of 300 draws at most 5 %, but for chance; adjusted over the pairs with shared genes alone it would be 23 %."""
    generator = np.random.default_rng(0)
    modules = np.arange(600) // 6  # small ones: most pairs share nothing
    terms = [str(i) for i in range(60)]
    rows = np.repeat(np.arange(60), 8)
    columns = np.concatenate([generator.choice(600, 8, replace=False) for _ in terms])
    members = sp.csr_matrix((np.ones(480, np.float32), (rows, columns)), (60, 600))
    draws = [random_modules(modules, generator) for _ in range(300)]
    assert np.mean([bool(enriched_terms(draw, terms, members, 0.05)) for draw in draws]) < 0.05 + 2 * 0.0126
    tests = [_enrich.tests_of(draw, members) for draw in draws]
    assert np.mean([(false_discovery_control(test.p_value) <= 0.05).any() for test in tests]) > 0.1


def test_sets_may_be_left_out_by_size(tested):
    genes, _, sets = tested
    sets = {"two": ["G1", "G2", "NOPE"], "none": ["NOPE"], **sets, "all": list(genes)}
    assert match_sets(sets, genes)[0] == [name for name in sets if name != "none"]
    terms, members = match_sets(sets, genes, min_size=3, max_size=100)
    assert not {"two", "all", "none"} & set(terms)
    assert members.shape == (13, 200)
    with pytest.raises(InputError, match="No gene set has 21 to 199 genes in the graph; theirs are 2 to 200"):
        match_sets(sets, genes, min_size=21, max_size=199)
    for sizes in ({"min_size": 0}, {"min_size": 5, "max_size": 4}):
        with pytest.raises(InputError, match="Sizes of gene sets must be 1 or more"):
            match_sets(sets, genes, **sizes)


def test_gene_sets_come_from_files_and_dicts(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("one\tabout\tA\tB,1.0\tA\n\ntwo\t\tC\n")
    assert read_gene_sets(path) == {"one": ["A", "B"], "two": ["C"]} == read_gene_sets(read_gene_sets(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\tx\tA\nbroken line\n", "line 2: expected term, description and genes"),
        ("one\tx\tA\none\tx\tB\n", "line 2: the term 'one' occurs twice"),
        ("", "contain no genes"),
    ],
)
def test_broken_files_name_the_line(tmp_path, text, message):
    (tmp_path / "sets.gmt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_gene_sets(tmp_path / "sets.gmt")


def test_what_is_not_there_is_said(tmp_path):
    (tmp_path / "binary.gmt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.gmt is not a text file; expected gene sets in GMT form"):
        read_gene_sets(tmp_path / "binary.gmt")
    with pytest.raises(InputError, match="No file of gene sets"):
        read_gene_sets(tmp_path / "missing.gmt")
    start = time.perf_counter()
    with pytest.raises(DownloadError, match="pass the path of a GMT file or a dict"):
        read_gene_sets("KEGG_2021_Human")
    assert time.perf_counter() - start < 10  # gseapy alone tries for half a minute
    with pytest.raises(InputError, match=r"The sets have a, b .*only in another case"):
        match_sets({"one": ["a", "b"]}, np.array(["A", "B"]))
