"""Encodes receive times and prices as row-to-row differences (encoding B), the smallest Parquet encoding.

Event times are in milliseconds, and `ts_event_ns` has what is left in ns, null if nothing.

Any Parquet reader can restore the values with the expressions below. Differences start from 0 in each file:

| column     | restored in polars                                                                                     |
| ---------- | ------------------------------------------------------------------------------------------------------ |
| ts_recv    | `pl.col("recv_step").fill_null(0).cum_sum().cast(pl.Datetime("ns", "UTC"))`                            |
| ts_event   | `pl.col("ts_event").cast(pl.Datetime("ns", "UTC"))` + `ts_event_ns`, 0 if null                      |
| price      | `pl.col("price_step").fill_null(0).cum_sum().over("symbol") / 1e9`, unless `price_text` holds a number |
| price text | `price_text`, and where that is null the number as a plain decimal without trailing zeros              |

In duckdb (`file_row_number` is the reader's own column, `from read_parquet(…, file_row_number = true)`):

    make_timestamp_ns(sum(coalesce(recv_step, 0)) over (order by file_row_number)::BIGINT)
    make_timestamp_ns(epoch_ms(ts_event) * 1000000 + coalesce(ts_event_ns, 0))
    sum(coalesce(price_step, 0)) over (partition by symbol order by file_row_number) / 1e9

The integer sum is exact; as a float, prices below nine million keep every digit. A difference of 0 is stored as null.
`price_text` holds prices that are not plain decimals of at most nine digits before and nine after the point (their
`price_step` is 0), and prices with trailing zeros. All other columns are the same as in encoding A.
"""

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from tasks.archive.columns import only
from tasks.archive.schema import CODED, CODED_SCHEMA, FILE_SCHEMA, SCHEMA, field

_UNIT = 10**9
_NUMBER = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?$"
_CLOSING_ZEROS = r"\.[0-9]*0$"
_RECV_STEP = field("recv_step", pa.int64(), "ns", "recorder", "ts_recv less that of the row before", nullable=True)
_PRICE_STEP = field(
    "price_step", pa.int64(), "1e-9 quote currency per unit", "vendor",
    "price less that of the symbol's row before", nullable=True,
)  # fmt: skip
_PRICE_TEXT = field("price_text", CODED, "decimal text", "vendor", "digits as received, where unusual", nullable=True)


# A third of the bytes of ns, for feeds that send milliseconds.
_EVENT_MS = field("ts_event", pa.timestamp("ms", "UTC"), "ms since 1970 UTC", "vendor", "the exchange's time, in ms")
_EVENT_NS = field("ts_event_ns", pa.int32(), "ns", "vendor", "the exchange's time beyond ts_event", nullable=True)


def _columns(schema: pa.Schema, **replaced: list[pa.Field]) -> pa.Schema:
    return pa.schema([each for column in schema for each in replaced.get(column.name, [column])])


# What `DeltaEncoder` gives, and files of format 1 have.
DELTA_SCHEMA = _columns(CODED_SCHEMA, ts_recv=[_RECV_STEP], price=[_PRICE_STEP, _PRICE_TEXT])
STEPS_SCHEMA = _columns(
    FILE_SCHEMA, ts_recv=[_RECV_STEP], ts_event=[_EVENT_MS, _EVENT_NS], price=[_PRICE_STEP], price_text=[_PRICE_TEXT]
)
RESTORED_BY = {
    "polars": {
        "ts_recv": 'pl.col("recv_step").fill_null(0).cum_sum().cast(pl.Datetime("ns", "UTC"))',
        "ts_event": (
            'pl.col("ts_event").cast(pl.Datetime("ns", "UTC"))'
            ' + pl.duration(nanoseconds=pl.col("ts_event_ns").fill_null(0), time_unit="ns")'
        ),
        "price": 'pl.col("price_step").fill_null(0).cum_sum().over("symbol") / 1e9',
    },
    "duckdb": {
        "ts_recv": "make_timestamp_ns(sum(coalesce(recv_step, 0)) over (order by file_row_number)::BIGINT)",
        "ts_event": "make_timestamp_ns(epoch_ms(ts_event) * 1000000 + coalesce(ts_event_ns, 0))",
        "price": "sum(coalesce(price_step, 0)) over (partition by symbol order by file_row_number) / 1e9",
    },
}


class DeltaEncoder:
    """Encodes the tables of one file, in order, or decodes them; carries the last values from table to table."""

    def __init__(self) -> None:
        self._recv_ns = 0
        self._prices: dict[str, int] = {}

    def encode(self, table: pa.Table) -> pa.Table:
        """Encode a table of `CODED_SCHEMA`, whose text columns have one chunk each, as `DELTA_SCHEMA`."""
        recv = _numbers(table["ts_recv"].cast(pa.int64()))
        steps = np.diff(recv, prepend=self._recv_ns)
        self._recv_ns = int(recv[-1])
        units, unusual = _parsed(table["price"])
        symbols = _as_polars(table["symbol"]).cast(pl.String)
        price_steps = self._price_steps(symbols, units)
        made = {
            "recv_step": _or_null(pl.Series(steps)),
            "price_step": _or_null(price_steps),
            "price_text": only(table["price"].combine_chunks(), unusual),
        }
        arrays = [made.get(name, table[name] if name in table.column_names else None) for name in DELTA_SCHEMA.names]
        return pa.table(arrays, schema=DELTA_SCHEMA)

    def decode(self, table: pa.Table) -> pa.Table:
        """Decode a table; `ts_event` and texts keep their input types, `price` becomes plain text."""
        steps = _numbers(table["recv_step"].fill_null(0))
        recv = np.cumsum(np.concatenate([[self._recv_ns], steps]))[1:]
        self._recv_ns = int(recv[-1]) if len(recv) else self._recv_ns
        symbols = _as_polars(table["symbol"]).cast(pl.String)
        units = self._units(symbols, pl.Series(_numbers(table["price_step"].fill_null(0))))
        unusual = _as_polars(table["price_text"]).cast(pl.String)
        price = pl.select(pl.coalesce(unusual, _texts(units))).to_series()
        made = {
            "ts_recv": pa.array(recv).cast(SCHEMA.field("ts_recv").type),
            "price": price.to_arrow().cast(pa.large_string()),
        }
        return pa.table({name: made.get(name, table[name] if name not in made else None) for name in SCHEMA.names})

    def _carried(self, symbols: pl.Series) -> pl.DataFrame:
        known = [(text, self._prices[text]) for text in symbols.unique().to_list() if text in self._prices]
        return pl.DataFrame(known, {"symbol": pl.String, "units": pl.Int64}, orient="row")

    def _price_steps(self, symbols: pl.Series, units: pl.Series) -> pl.Series:
        before = self._carried(symbols)
        rows = pl.concat([before, pl.DataFrame({"symbol": symbols, "units": units})]).with_columns(
            pl.col("units").forward_fill().over("symbol").fill_null(0)
        )
        self._note(rows)
        steps = rows.select(pl.col("units") - pl.col("units").shift(1, fill_value=0).over("symbol"))
        return steps.to_series()[before.height :]

    def _units(self, symbols: pl.Series, steps: pl.Series) -> pl.Series:
        before = self._carried(symbols)
        rows = pl.concat([before, pl.DataFrame({"symbol": symbols, "units": steps})])
        rows = rows.with_columns(pl.col("units").cum_sum().over("symbol"))
        self._note(rows)
        return rows["units"][before.height :]

    def _note(self, rows: pl.DataFrame) -> None:
        self._prices |= dict(rows.group_by("symbol").agg(pl.col("units").last()).iter_rows())


def _parsed(prices: pa.ChunkedArray) -> tuple[pl.Series, "np.ndarray[Any, np.dtype[np.bool_]]"]:
    """Return prices in units of 1e-9 (null if not a plain decimal), and which texts are not in canonical form."""
    column = prices.combine_chunks()
    texts = pl.Series(column.dictionary).cast(pl.String)
    parts = texts.str.split_exact(".", 1).struct.unnest()
    is_number = texts.str.contains(_NUMBER)
    whole, part = pl.nth(0).cast(pl.Int64, strict=False), pl.nth(1).fill_null("").str.pad_end(9, "0")
    units = parts.select(pl.when(is_number).then(whole * _UNIT + part.cast(pl.Int64, strict=False))).to_series()
    is_plain = (is_number & ~texts.str.contains(_CLOSING_ZEROS)).to_numpy()
    codes = np.asarray(column.indices)
    return units.gather(codes), ~is_plain[codes]


def _texts(units: pl.Series) -> pl.Series:
    """Format units of 1e-9 as plain decimals without trailing zeros; each distinct value is formatted once."""
    known = units.unique()
    part = (known % _UNIT).cast(pl.String).str.zfill(9).str.strip_chars_end("0")
    whole = (known // _UNIT).cast(pl.String)
    written = pl.select(pl.when(part == "").then(whole).otherwise(whole + "." + part)).to_series()
    return units.replace_strict(known, written, return_dtype=pl.String)


def _numbers(column: pa.ChunkedArray) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return pl.Series(column).to_numpy()


def _as_polars(column: pa.ChunkedArray) -> pl.Series:
    return pl.Series(column)


def _or_null(steps: pl.Series) -> pa.ChunkedArray:
    return pa.chunked_array([pl.select(pl.when(steps != 0).then(steps)).to_series().to_arrow()])
