"""Convert columns and names to text in the same way under every version of pandas."""

import numpy as np
import pandas as pd


def as_text(values: pd.Index | pd.Series) -> np.ndarray:
    """(n,) object: a new array with every value as text, a missing one as ``"nan"`` or another of the usual words."""
    text = np.array(values.astype(str), dtype=object)
    text[pd.isna(text)] = "nan"  # pandas 3 leaves missing values as they are
    return text


def column_names(table: pd.DataFrame) -> str:
    """The names of the columns of a table, for a message."""
    return ", ".join(map(str, table.columns)) or "none"
