"""Classifiers of genes: folds, scores, and what can and cannot be learned."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import cellfm as cf
from cellfm.engines import apply
from cellfm.errors import InputError, MissingKeyError
from cellfm.tasks.genes import _mlp, cross_validate, read_labels
from cellfm.tasks.genes._function import fmax, metrics
from cellfm.tasks.genes._mlp import Recipe, _entropy, _loss, macro_auroc, probabilities, train_folds


def test_the_loss_is_binary_cross_entropy_with_both_classes_counted_alike():
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 6, 4)).astype(np.float32), (np.arange(6) < 2)[:, None].astype(np.float32)
    weights = {"0": generator.standard_normal((2, 4, 1)).astype(np.float32)}
    balance = np.tile(np.where(y, 0.5 / (2 / 6), 0.5 / (4 / 6)), (2, 1, 1)).astype(np.float32)
    found = apply(_loss, weights, x, y, balance, np.tile(np.arange(6), (2, 1)))
    p = 1 / (1 + np.exp(-x @ weights["0"]))
    entropy = -np.where(y, np.log(p), np.log(1 - p))
    by_fold = (entropy[:, :2].mean((1, 2)) + entropy[:, 2:].mean((1, 2))) / 2
    np.testing.assert_allclose(found, by_fold.sum(), rtol=1e-4)


def test_a_network_that_learns_is_not_left_at_chance_because_its_loss_overshoots_first(monkeypatch):
    """Weak signals and a large rate: validation loss is least before the first step, and ranks get better."""
    generator = np.random.default_rng(1)
    x = generator.standard_normal((1, 1200, 60)).astype(np.float32)
    y = (x[0, :, :2] + 3 * generator.standard_normal((1200, 2)) > 0).astype(np.float32)
    train, validation, test = np.split(np.arange(1200), [500, 700])
    losses = []

    def told(xp, z, truth, balance):
        loss = _entropy(xp, z, truth, balance)
        if xp is np:
            losses.append(loss.mean())
        return loss

    monkeypatch.setattr(_mlp, "_entropy", told)
    recipe = Recipe((256, 128, 64), dropout=0.0, layer_norm=True, learning_rate=3e-3, n_epochs=8)
    p = probabilities(x, train_folds(x, y, [train], [validation], recipe), recipe)[0]
    assert np.argmin(losses) == 0
    assert metrics(y[test], p[test])["auroc"] > 0.55


def test_the_auroc_that_chooses_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    y, scores = (generator.random((50, 4)) < 0.3).astype(np.float32), generator.integers(0, 9, (50, 4))
    assert macro_auroc(y, scores) == pytest.approx(roc_auc_score(y, scores, average="macro"))
    y[:, 0], y[:, 1] = 0, 1  # labels that tell nothing
    assert macro_auroc(y, scores) == pytest.approx(roc_auc_score(y[:, 2:], scores[:, 2:], average="macro"))
    assert macro_auroc(y[:, :2], scores[:, :2]) == 0.5


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_few_genes_are_learned_by_heart(layer_norm):
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((1, 12, 6)).astype(np.float32), generator.permutation(np.eye(2)[np.arange(12) % 2])
    recipe = Recipe((16, 16), dropout=0.0, layer_norm=layer_norm, learning_rate=1e-2, n_epochs=200, patience=200)
    genes = [np.arange(12)]
    p = probabilities(x, train_folds(x, y.astype(np.float32), genes, genes, recipe), recipe)
    assert (np.abs(p[0] - y) < 0.1).all()


def test_folds_trained_together_are_folds_trained_alone():
    """Without dropout, whose random numbers are drawn for all folds at once; one validates by fewer genes."""
    generator = np.random.default_rng(0)
    x, y = (
        generator.standard_normal((3, 40, 4)).astype(np.float32),
        (generator.random((40, 1)) < 0.5).astype(np.float32),
    )
    recipe = Recipe((4,), dropout=0.0, n_epochs=15, batch_size=100, learning_rate=1e-2)
    genes = [np.arange(30)] * 3, [np.arange(30, 40), np.arange(30, 39), np.arange(30, 40)]
    together = train_folds(x, y, *genes, recipe)
    again = train_folds(x, y, *genes, recipe)
    alone = train_folds(x[:1], y, genes[0][:1], genes[1][:1], recipe)
    for layer, one in together.items():
        np.testing.assert_array_equal(one, again[layer])
        np.testing.assert_allclose(one[:1], alone[layer], atol=1e-5)


@pytest.fixture
def told():
    """120 genes: the sign of the first of eight features is the class."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((120, 8)).astype(np.float32)
    return x, (x[:, :1] > 0).astype(np.float32)


def test_what_features_tell_is_found_and_noise_is_not(told):
    x, y = told
    noise = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    options = {"learning_rate": 1e-2, "n_epochs": 60}
    table = cross_validate({"told": x, "noise": noise}, y, n_folds=4, n_repeats=2, recipe_options=options)
    assert len(table) == 2 * 2 * 4 * 2
    mean = table.groupby(["features", "classifier"])["auroc"].mean()
    assert (mean["told"] > 0.85).all()
    assert (mean["noise"].between(0.3, 0.7)).all()
    again = cross_validate({"told": x, "noise": noise}, y, n_folds=4, n_repeats=2, recipe_options=options)
    pd.testing.assert_frame_equal(table, again)


def test_every_gene_is_tested_once_a_repeat_and_never_trained_on(told):
    from cellfm.tasks.genes._function import _folds

    _, y = told
    tested = np.zeros(120, int)
    for train, validation, test in _folds(y, 5, 0):
        assert not set(train) & set(test) | set(validation) & set(test) | set(train) & set(validation)
        assert len(train) + len(validation) + len(test) == 120
        tested[test] += 1
    assert (tested == 1).all()


def test_metrics_of_perfect_and_of_constant_scores():
    y = np.array([[1.0], [0.0], [1.0], [0.0]])
    assert metrics(y, y) == {"auroc": 1.0, "auprc": 1.0, "accuracy": 1.0, "macro_f1": 1.0}
    many = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert metrics(many, many) == {"auprc": 1.0, "fmax": 1.0, "auroc": 1.0}
    assert fmax(many, np.full((3, 2), 0.5)) == pytest.approx(2 * (4 / 6) / (4 / 6 + 1))


@pytest.fixture
def embedded(tiny_adata, tiny_model):
    cf.tl.embed_genes(tiny_adata, tiny_model)
    return tiny_adata


LABELS = {f"GENE{i}": "yes" if i % 3 else "no" for i in range(60)}
FAST = {"n_folds": 2, "n_repeats": 1, "n_epochs": 2}


def test_the_tool_compares_embeddings_with_all_controls(embedded):
    table = cf.tl.gene_function(embedded, LABELS, **FAST)
    assert list(dict.fromkeys(table["features"])) == ["cellfm", "random", "expression", "permuted"]
    assert set(table["classifier"]) == {"MLP", "logistic regression"}
    ax = cf.pl.gene_function(table, metric="auprc")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["cellfm", "random", "expression", "permuted"]
    chance = cf.pl.gene_function(table, metric="auroc").lines
    assert [list(line.get_ydata()) for line in chance] == [[0.5, 0.5]]
    with pytest.raises(MissingKeyError, match="No metric 'speed'; available: auroc, auprc, accuracy, macro_f1"):
        cf.pl.gene_function(table, metric="speed")


def test_two_classes_come_from_a_dict_a_table_or_a_file(embedded, tmp_path):
    expected = read_labels(LABELS, embedded.var_names, "binary")
    series = pd.Series(LABELS, name="kind")
    series.rename_axis("gene").to_csv(tmp_path / "labels.csv")
    series.rename_axis("gene").to_csv(tmp_path / "labels.tsv", sep="\t")
    for labels in (series, series.to_frame(), tmp_path / "labels.csv", tmp_path / "labels.tsv"):
        pd.testing.assert_frame_equal(read_labels(labels, embedded.var_names, "binary"), expected, check_names=False)
    wide = pd.DataFrame({"a": 1.0, "b": np.arange(60) % 2}, index=list(LABELS))
    with pytest.raises(InputError, match="one column of labels is expected, found 2"):
        read_labels(wide, embedded.var_names, "binary")
    many = pd.DataFrame({"a": np.arange(60) % 3 == 0, "b": np.arange(60) % 2 == 0}, index=list(LABELS))
    np.testing.assert_array_equal(read_labels(many, embedded.var_names, "multilabel"), many)
    (tmp_path / "one.csv").write_text("gene\nGENE1\n")
    with pytest.raises(InputError, match=r"one\.csv has 1 column; expected genes and labels"):
        read_labels(tmp_path / "one.csv", embedded.var_names, "binary")


def test_features_may_be_a_model_or_a_table(embedded, tiny_model):
    of_cells = cf.tl.gene_function(embedded, LABELS, controls=(), **FAST)
    of_model = cf.tl.gene_function(tiny_model, LABELS, controls=(), **FAST)
    of_table = cf.tl.gene_function(cf.get.gene_embeddings(embedded), LABELS, controls=(), **FAST)
    columns = ["auroc", "auprc", "accuracy", "macro_f1"]
    for other in (of_model, of_table):
        np.testing.assert_array_equal(other[columns], of_cells[columns])


def test_many_labels_come_from_gene_sets(embedded, tmp_path):
    path = tmp_path / "sets.gmt"
    rows = {"a": range(40), "b": range(30, 70), "small": range(3), "c": range(60, 100)}
    path.write_text("".join(f"{t}\t\t" + "\t".join(f"GENE{i}" for i in r) + "\n" for t, r in rows.items()))
    known = read_labels(path, embedded.var_names, "multilabel", 3)
    assert list(known) == ["a", "b", "c"]
    assert known.shape == (100, 3)
    assert known.loc["GENE35"].tolist() == [1, 1, 0]
    table = cf.tl.gene_function(embedded, path, task="multilabel", n_terms=3, controls=("random",), **FAST)
    assert {"auprc", "fmax", "auroc"} <= set(table)
    scores = cf.tl.predict_gene_function(embedded, path, task="multilabel", n_terms=3)
    assert scores.shape == (200, 3)


def test_unlabelled_genes_are_scored_by_what_the_labels_say(told):
    x, y = told
    features = pd.DataFrame(x, index=[f"G{i}" for i in range(120)])
    labels = pd.Series(y[:80, 0].astype(bool), index=features.index[:80])
    scores = cf.tl.predict_gene_function(features, labels)
    assert list(scores.columns) == ["True"]
    assert scores["True"].is_monotonic_decreasing
    truth = pd.Series(y[:, 0], index=features.index)[scores.index]
    assert len(truth) == 40
    assert truth[:15].mean() > 0.9 > 0.1 > truth[-15:].mean()


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (dict.fromkeys(LABELS, "yes"), {}, "Expected two classes of genes, found 1: yes"),
        ({"TP53": 1, "MYC": 0}, {}, "The labels have TP53, MYC ..., the features GENE0"),
        ({f"GENE{i}": i < 3 for i in range(60)}, {}, "3 of 60 labelled genes with features are 'True'; at least 10"),
        ("nowhere.csv", {}, "No table of labels"),
        (LABELS, {"controls": ("luck",)}, "Unknown controls: 'luck'"),
        (LABELS, {"n_folds": 1}, "n_folds must be a whole number of 2"),
        (LABELS, {"task": "many"}, "task must be"),
    ],
)
def test_bad_labels_and_options_are_refused(embedded, labels, options, message):
    with pytest.raises(InputError, match=message):
        cf.tl.gene_function(embedded, labels, **FAST | options)


def test_bad_features_are_refused(embedded):
    with pytest.raises(InputError, match="not numbers"):
        cf.tl.predict_gene_function(pd.DataFrame({"a": ["x"]}, index=["GENE1"]), LABELS)
    with pytest.raises(InputError, match="No gene has features: all are missing or zero"):
        cf.tl.predict_gene_function(pd.DataFrame({"a": [0.0, np.nan]}, index=["GENE1", "GENE2"]), LABELS)
    table = cf.get.gene_embeddings(embedded, genes=list(LABELS))
    with pytest.raises(InputError, match="Every gene with features has a label"):
        cf.tl.predict_gene_function(table, LABELS)
    with pytest.raises(InputError, match="classifier must be"):
        cf.tl.predict_gene_function(embedded, LABELS, classifier="oracle")
