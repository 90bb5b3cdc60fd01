"""How are the texts of a column held once each, in the same order whatever number of threads read them?"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

Codes = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Coded:
    """A column of texts: `codes` has an index into `texts` for each row; `texts` stand in order of first appearance."""

    codes: Codes
    texts: pl.Series

    @classmethod
    def of(cls, column: pl.Series) -> Self:
        """A Categorical column without nulls; its own codes depend on which thread saw a text first."""
        first = column.unique(maintain_order=True)
        places = first.to_physical().to_numpy()
        ranks = np.empty(int(places.max(initial=0)) + 1, np.int32)
        ranks[places] = np.arange(len(places), dtype=np.int32)
        return cls(ranks[column.to_physical().to_numpy()], first.cast(pl.String))

    def hashes(self) -> pl.Series:
        """A hash of each row's text, UInt64, the same for the same text in every slice."""
        return pl.Series(self.texts.hash().to_numpy()[self.codes])

    def counts(self) -> dict[str, int]:
        """How many rows have each text."""
        found = np.bincount(self.codes, minlength=len(self.texts)).tolist()
        return dict(zip(self.texts, found, strict=True))

    def to_arrow(self) -> pa.DictionaryArray:
        """As an Arrow dictionary of large strings."""
        return pa.DictionaryArray.from_arrays(pa.array(self.codes), self.texts.to_arrow().cast(pa.large_string()))
