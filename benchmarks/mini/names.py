"""Previous symbols and aliases of the genes of `mini`, as columns of its vocabulary.

Run as ``python -m benchmarks.mini.names --data FOLDER``; it changes these columns of the vocabulary in the package and
leaves symbols, ids and types as they are.

Sources, in ``FOLDER/gene_info`` (none of the files is dated):

- HGNChelper's map of symbols (data/hgnc.table.rda): previous symbols and aliases to approved symbols of HGNC. It does
  not tell the two apart, and all of them count as aliases here, which are followed with more care;
- GENCODE 44 (July 2023) and the gene table of Geneformer: other official symbols of the same Ensembl gene, earlier or
  later; these count as previous symbols;
- the symbols that HGNC gave up in 2020 because spreadsheets take them for dates (Bruford et al. 2020, Nature Genetics).
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from benchmarks.mini.vocabulary import approved_names
from cellfm.genes.names import symbols_of_date
from cellfm.genes.vocabulary import FILE_NAME, NAME_COLUMNS, strip_version
from cellfm.settings import model_folder

_GIVEN_UP = (
    (re.compile(r"SEPTIN(\d+)"), r"SEPT\1"),
    (re.compile(r"MARCHF(\d+)"), r"MARCH\1"),
    (re.compile(r"MTARC(\d)"), r"MARC\1"),
    (re.compile(r"DELEC1"), "DEC1"),
    (re.compile(r"SELENOF"), "SEP15"),
)


def other_names(folder: Path, genes: pd.DataFrame) -> pd.DataFrame:
    """The columns ``previous``, ``aliases`` and ``ambiguous`` for the genes of a vocabulary, each joined by ``|``.

    Approved symbols of genes outside the vocabulary are never other names. A symbol of the vocabulary may be: it is
    not followed, and explains why an Ensembl id and a name differ.
    """
    symbols = set(genes["symbol"])
    approved = approved_names(folder)[0]
    previous = _earlier_and_later(folder, genes) | _given_up(genes)
    previous = {name: symbol for name, symbol in previous.items() if name not in approved | symbols}

    table = pd.read_csv(folder / "HGNChelper_symbol_map.tsv", sep="\t", dtype=str, keep_default_na=False)
    table = table.set_axis(["name", "symbol", "chromosome"], axis=1)[["name", "symbol"]].drop_duplicates()
    table = table[table["name"] != table["symbol"]]
    table = table[~table["name"].isin((approved - symbols) | previous.keys())]
    table = table[table["name"].map(_can_be_a_name)]
    n_genes = table.groupby("name")["symbol"].transform("nunique")
    table["kind"] = (n_genes > 1).map({True: "ambiguous", False: "aliases"})
    earlier = pd.DataFrame({"name": list(previous), "symbol": list(previous.values()), "kind": "previous"})
    table = pd.concat([table[table["symbol"].isin(symbols)], earlier]).sort_values("name")
    joined = table.groupby(["symbol", "kind"])["name"].agg("|".join).unstack(fill_value="")
    return joined.reindex(index=genes["symbol"], columns=list(NAME_COLUMNS), fill_value="")


def _earlier_and_later(folder: Path, genes: pd.DataFrame) -> dict[str, str]:
    """Symbols that GENCODE and Geneformer's table give to the Ensembl id of a gene, where one gene alone has them."""
    symbol_of = {i: symbol for i, symbol in zip(genes["ensembl_id"], genes["symbol"], strict=True) if i}
    gencode = pd.read_csv(folder / "GENCODEv44_Gene_id2name.csv", header=None, names=["id", "name"], dtype=str)
    older = pd.read_csv(folder / "geneformer_gene_info_table.csv", dtype=str, keep_default_na=False)
    found: dict[str, set[str]] = {}
    for ids, names in ((gencode["id"], gencode["name"]), (older["ensembl_id"], older["gene_name"])):
        for ensembl, name in zip(ids.map(strip_version), names, strict=True):
            symbol = symbol_of.get(ensembl)
            if symbol and name and name != symbol and not name.startswith("ENSG"):
                found.setdefault(name, set()).add(symbol)
    return {name: min(owners) for name, owners in found.items() if len(owners) == 1}


def _given_up(genes: pd.DataFrame) -> dict[str, str]:
    found = {}
    for pattern, before in _GIVEN_UP:
        for symbol in genes["symbol"]:
            if pattern.fullmatch(symbol):
                found[pattern.sub(before, symbol)] = symbol
    return found


def _can_be_a_name(name: str) -> bool:
    """Not a number, nor a date, which HGNChelper lists too."""
    return not name.isdigit() and not symbols_of_date(name) and not set("|\t\n") & set(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with gene_info/ inside")
    data = parser.parse_args().data
    path = model_folder("mini") / FILE_NAME
    genes = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)[["symbol", "ensembl_id", "biotype"]]
    names = other_names(data / "gene_info", genes)
    pd.concat([genes, names.reset_index(drop=True)], axis=1).to_csv(path, sep="\t", index=False)
    print({column: int((names[column] != "").sum()) for column in NAME_COLUMNS}, "genes with such names")


if __name__ == "__main__":
    main()
