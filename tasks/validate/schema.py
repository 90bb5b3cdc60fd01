"""Defines the rules that a trade must satisfy to be archived.

`rules` is the only table: a name, a sentence, and a polars expression that is true if the row satisfies the rule. To
add a rule, add a line. Unreadable values are null, and a rule that evaluates to null counts as broken.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandera.polars as pa
import polars as pl
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from tasks.archive.quarantine import LINE_END
from tasks.errors import CorruptionError
from tasks.records.manifest import Seal
from tasks.records.trade import journal_columns

# What `lines.py` and `order.py` add to the values of a line.
LINE_FACTS = (
    "fields", "printable", "ended", "price_number", "size_number", "seq_rises", "seq_follows", "time_rises",
)  # fmt: skip
# Texts are stored once each, so a rule about texts is evaluated once per distinct text if that is faster.
TYPES: dict[str, type[pl.DataType]] = {
    "connection": pl.Int32,
    "recv_seq": pl.Int64,
    "ts_recv": pl.Int64,
    "ts_event": pl.Int64,
    "symbol": pl.Categorical,
    "price": pl.Categorical,
    "size": pl.Categorical,
    "conditions": pl.Categorical,
    "trade_id": pl.Int64,
    "sequence": pl.Int64,
    "side": pl.Categorical,
}
Types = Mapping[str, type[pl.DataType]]
MOST_TRADES = 1 << 40
_EXTRA_RULES = (
    ("trade_id", "trade_id is a whole number from 1", pl.col("trade_id") >= 1),
    ("sequence", "sequence is a whole number from 1", pl.col("sequence") >= 1),
    ("side", "side is buy or sell", pl.col("side").is_in(["buy", "sell"])),
)
_CASES = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """How far an event time may be before and after the receive time, in ns; None means no limit.

    A batch is validated in slices of about `slice_bytes`: large enough to amortize pandera's 20 ms per call, small
    enough to reuse the same memory.
    """

    max_event_age_ns: int | None
    max_event_ahead_ns: int | None
    slice_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Rule:
    """A named rule; `holds` is a boolean expression over the journal's columns and `LINE_FACTS`, never null."""

    name: str
    sentence: str
    holds: pl.Expr


def rules(seal: Seal, limits: Limits) -> tuple[Rule, ...]:
    """Return the rules for the rows of a batch."""
    col = pl.col
    price, size = col("price_number"), col("size_number")
    fields = len(journal_columns(seal.extra_columns))
    age, ahead = limits.max_event_age_ns, limits.max_event_ahead_ns
    table = [
        ("text", "the line is printable UTF-8 without quotes", col("printable")),
        (LINE_END, "the line ends in a line feed", col("ended")),
        ("fields", "the line has as many fields as the header", col("fields") == fields),
        ("connection", "connection is one that the seal lists", col("connection").is_in(_connections(seal))),
        ("recv_seq", "recv_seq is a whole number from 1", col("recv_seq").is_between(1, MOST_TRADES - 1)),
        ("ts_recv", "ts_recv is a whole number of ns since 1970", col("ts_recv") >= 0),
        ("ts_event", "ts_event is a whole number of ns since 1970", col("ts_event") >= 0),
        ("symbol", "symbol is one that was subscribed", col("symbol").is_in(sorted(seal.symbols))),
        ("price", "price is a finite number above 0", price.is_finite() & (price > 0)),
        ("size", "size is a finite number, 0 or more", size.is_finite() & (size >= 0)),
        ("conditions", "conditions is present, possibly empty", col("conditions").is_not_null()),
        ("recv_seq_order", "recv_seq rises in the order of lines", col("seq_rises")),
        ("recv_seq_gap", "no trade is missing before this one", col("seq_follows")),
        ("ts_recv_order", "ts_recv never falls within a connection", col("time_rises")),
    ]
    table += [rule for rule in _EXTRA_RULES if rule[0] in seal.extra_columns]
    if age is not None:
        table.append(("event_age", "ts_event is not too long before ts_recv", col("ts_recv") - col("ts_event") <= age))
    if ahead is not None:
        table.append(
            ("event_ahead", "ts_event is not too far after ts_recv", col("ts_event") - col("ts_recv") <= ahead)
        )
    return tuple(Rule(name, sentence, holds.fill_null(value=False)) for name, sentence, holds in table)


def schema(table: tuple[Rule, ...], types: Types) -> pa.DataFrameSchema:
    """Build the pandera schema: the journal's columns with their types, plus one boolean column per rule."""
    holds = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key)), n_failure_cases=_CASES)
    columns = {name: pa.Column(kind, nullable=True) for name, kind in types.items()}
    columns |= {rule.name + "?": pa.Column(pl.Boolean, holds, description=rule.sentence) for rule in table}
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


class Gate:
    """Checks the rules slice by slice for one batch.

    Pandera takes about a millisecond per column and check, so all rules are first checked as one; after a slice has
    broken one, each rule is checked by itself.
    """

    def __init__(self, table: tuple[Rule, ...], extra: Collection[str] = ()) -> None:
        every = pl.all_horizontal(rule.holds for rule in table)
        self._all = (Rule("all", "every rule holds", every),)
        self._each = table
        self._types = {name: TYPES[name] for name in journal_columns(extra)}
        self._schema_of_all, self._schema_of_each = schema(self._all, self._types), schema(table, self._types)
        self._is_clean = True

    def broken(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return one boolean column for each rule that some row breaks (true = broken); no column if all rows pass.

        `frame` has the columns of `TYPES` and `LINE_FACTS`. Raises CorruptionError if their types differ.
        """
        self._is_clean = self._is_clean and not self._ask(frame, self._all, self._schema_of_all).width
        return pl.DataFrame() if self._is_clean else self._ask(frame, self._each, self._schema_of_each)

    def _ask(self, frame: pl.DataFrame, table: tuple[Rule, ...], gate: pa.DataFrameSchema) -> pl.DataFrame:
        asked = frame.select(*self._types, *(rule.holds.alias(rule.name + "?") for rule in table))
        try:
            # Set here so that PANDERA_VALIDATION_… cannot change it; a LazyFrame's values would not be checked.
            with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
                gate.validate(asked, lazy=True)
        except SchemaErrors as errors:
            return asked.select((~pl.col(name)).alias(name[:-1]) for name in _failed(errors))
        return pl.DataFrame()


def _failed(errors: SchemaErrors) -> list[str]:
    names = []
    for error in errors.schema_errors:
        if error.check_output is None or not str(error.schema.name).endswith("?"):
            raise CorruptionError(f"the batch does not read as a journal: {str(error)[:200]}") from errors
        names.append(str(error.schema.name))
    return names


def _connections(seal: Seal) -> list[int]:
    return [known.connection for known in seal.connections]
