"""The genes of `mini`: approved symbols with Ensembl id and biotype, sorted by symbol.

Run as ``python -m benchmarks.mini.vocabulary --data FOLDER --out vocabulary.tsv``; `names.py` adds their other names.
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from cellfm.genes.vocabulary import Vocabulary, strip_version

MIN_CELLS = 10
"""Genes that are neither protein-coding nor in the tables of CellFM stay when this many cells of the data show them."""
CELLFM_BIOTYPES = {"gene with protein product": "protein_coding", "RNA, long non-coding": "lncRNA"}


def approved_names(folder: Path) -> tuple[set[str], dict[str, str]]:
    """Approved symbols, and aliases or previous symbols that stand for exactly one of them."""
    table = pd.read_csv(folder / "HGNChelper_symbol_map.tsv", sep="\t", dtype=str, keep_default_na=False)
    symbols, named = table["Symbol"], table["Approved.Symbol"]
    clear = (named != "") & ~named.str.contains("///")
    approved = set(named[clear])
    aliases = {old: new for old, new in zip(symbols[clear], named[clear], strict=True) if old not in approved}
    return approved, aliases


def ensembl_genes(folder: Path, aliases: dict[str, str]) -> pd.DataFrame:
    """Every human Ensembl gene: its symbol today, its biotype, and whether GENCODE 44 has it."""
    gencode = pd.read_csv(folder / "GENCODEv44_Gene_id2name.csv", header=None, names=["id", "name"], dtype=str)
    gencode["id"] = gencode["id"].map(strip_version)
    gencode = gencode.drop_duplicates("id").set_index("id")
    older = pd.read_csv(folder / "geneformer_gene_info_table.csv", dtype=str, keep_default_na=False)
    older = older[older["ensembl_id"].str.startswith("ENSG")].drop_duplicates("ensembl_id").set_index("ensembl_id")
    ids = gencode.index.union(older.index)
    today, before = gencode["name"].reindex(ids).fillna(""), older["gene_name"].reindex(ids).fillna("")
    unnamed = (today == "") | today.str.startswith("ENSG")
    symbol = today.where(~unnamed, before)
    symbol = symbol.where((symbol != "") & ~symbol.str.startswith("ENSG"), "").map(lambda name: aliases.get(name, name))
    return pd.DataFrame(
        {
            "symbol": symbol,
            "biotype": older["gene_type"].reindex(ids).fillna(""),
            "current": ids.isin(gencode.index),
        },
        index=ids,
    )


def cellfm_genes(folder: Path, aliases: dict[str, str]) -> dict[str, str]:
    """Approved symbols of the genes in CellFM's tables, and their biotypes where the table tells them."""
    found: dict[str, str] = {}
    for name in ("cellfm_gene_info.csv", "cellfm_expand_gene_info.csv"):
        table = pd.read_csv(folder / name, dtype=str, keep_default_na=False)
        for symbol, biotype in zip(table["HGNC_gene"], table["biotype"], strict=True):
            found[aliases.get(symbol, symbol)] = CELLFM_BIOTYPES.get(biotype, "")
    return found


def observed_genes(data: Path, genes: pd.DataFrame, approved: set[str], aliases: dict[str, str]) -> pd.DataFrame:
    """Symbols that the data show: their Ensembl ids where given, and in how many cells they are expressed."""
    rows = []
    for path in sorted(data.glob("*.h5ad")):
        adata = ad.read_h5ad(path)
        cells = np.asarray((adata.X > 0).sum(0)).ravel()
        for name, ensembl, n in zip(adata.var_names, adata.var["ensembl_id"].astype(str), cells, strict=True):
            ensembl = strip_version(ensembl)
            symbol = aliases.get(name, name)
            if symbol not in approved and ensembl in genes.index and genes.at[ensembl, "symbol"]:
                symbol = genes.at[ensembl, "symbol"]
            rows.append((symbol, ensembl if ensembl.startswith("ENSG") else "", int(n)))
    table = pd.DataFrame(rows, columns=["symbol", "ensembl_id", "cells"])
    ids = table[table["ensembl_id"] != ""].drop_duplicates("symbol").set_index("symbol")["ensembl_id"]
    return table.groupby("symbol")[["cells"]].sum().assign(ensembl_id=ids).fillna({"ensembl_id": ""})


def build_vocabulary(data: Path) -> Vocabulary:
    """Genes of the data sets and the tables beside them, in the order of their symbols."""
    info = data / "gene_info"
    approved, aliases = approved_names(info)
    by_id = ensembl_genes(info, aliases)
    known = by_id[by_id["symbol"] != ""].rename_axis("ensembl_id").reset_index()
    known["coding"] = known["biotype"] == "protein_coding"
    known = known.sort_values(["current", "coding", "ensembl_id"], ascending=[False, False, True])
    known = known.drop_duplicates("symbol").set_index("symbol")  # the best id of a symbol that several genes carry
    published = cellfm_genes(info, aliases)
    observed = observed_genes(data, by_id, approved, aliases)

    frequent = observed.index[observed["cells"] >= MIN_CELLS]
    coding = known.index[known["coding"] & known["current"]]
    symbols = sorted(set(coding) | set(published) | set(frequent))
    table = pd.DataFrame({"symbol": symbols}).set_index("symbol", drop=False)
    table["ensembl_id"] = known["ensembl_id"].reindex(symbols)
    table["ensembl_id"] = table["ensembl_id"].fillna(observed["ensembl_id"].reindex(symbols)).fillna("")
    biotype = by_id["biotype"].reindex(table["ensembl_id"]).set_axis(symbols)
    table["biotype"] = biotype.fillna(pd.Series(published).reindex(symbols)).fillna("")
    again = table["ensembl_id"].duplicated() & (table["ensembl_id"] != "")
    table.loc[again, "ensembl_id"] = ""  # an id leads to one gene only
    return Vocabulary(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the h5ad files, with gene_info/ inside")
    parser.add_argument("--out", type=Path, required=True, help="TSV file to write")
    arguments = parser.parse_args()
    vocabulary = build_vocabulary(arguments.data)
    vocabulary.genes.to_csv(arguments.out, sep="\t", index=False)
    print(vocabulary)
