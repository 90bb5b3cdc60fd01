"""Stores a text column as codes and distinct texts, independent of the number of reader threads."""

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
        """Convert a Categorical column without nulls, whose own codes depend on which thread saw a text first."""
        first = column.unique(maintain_order=True)
        places = first.to_physical().to_numpy()
        ranks = np.empty(int(places.max(initial=0)) + 1, np.int32)
        ranks[places] = np.arange(len(places), dtype=np.int32)
        return cls(ranks[column.to_physical().to_numpy()], first.cast(pl.String))

    @classmethod
    def of_dictionary(cls, column: pa.DictionaryArray) -> Self:
        """Reverse `to_arrow`."""
        return cls(pl.Series(column.indices).to_numpy(), pl.Series(column.dictionary, dtype=pl.String))

    def text_hashes(self, factor: np.uint64) -> np.ndarray[Any, np.dtype[np.uint64]]:
        """Hash each of `texts`, times a factor; equal texts have equal hashes in every slice of this process."""
        return self.texts.hash().to_numpy() * factor

    def counts(self) -> dict[str, int]:
        """Count the rows of each text."""
        found = np.bincount(self.codes, minlength=len(self.texts)).tolist()
        return dict(zip(self.texts, found, strict=True))

    def to_arrow(self) -> pa.DictionaryArray:
        """Convert to an Arrow dictionary of large strings."""
        return pa.DictionaryArray.from_arrays(pa.array(self.codes), self.texts.to_arrow().cast(pa.large_string()))
