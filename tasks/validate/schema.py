"""Which rules must a trade keep to be archived?

`rules` is the one table: a name, a sentence, and a polars expression that is true where the row keeps the rule. To add
a rule, add a line. A value that could not be read is null, and whatever cannot be told counts as broken.
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

# What `lines.py` and `order.py` find out about a line besides its values.
LINE_FACTS = (
    "fields", "printable", "ended", "price_number", "size_number", "seq_rises", "seq_follows", "time_rises",
)  # fmt: skip
# Texts are held once each, and a rule about one is asked once for each of them where that pays.
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
    """How far an event time may lie before and after the receive time, in ns; None is no limit."""

    max_event_age_ns: int | None
    max_event_ahead_ns: int | None


@dataclass(frozen=True, slots=True)
class Rule:
    """`holds` is a boolean expression over the columns of the journal and `LINE_FACTS`, never null."""

    name: str
    sentence: str
    holds: pl.Expr


def rules(seal: Seal, limits: Limits) -> tuple[Rule, ...]:
    """The rules for the rows of that batch."""
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
        ("conditions", "conditions is there, if empty", col("conditions").is_not_null()),
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
    """The gate: the journal's columns with their types, and one boolean column for each rule, nothing else."""
    holds = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key)), n_failure_cases=_CASES)
    columns = {name: pa.Column(kind, nullable=True) for name, kind in types.items()}
    columns |= {rule.name + "?": pa.Column(pl.Boolean, holds, description=rule.sentence) for rule in table}
    return pa.DataFrameSchema(columns, strict=True, ordered=True)


class Gate:
    """Puts slice after slice of one batch to the rules.

    Pandera takes about a millisecond a column and check, so it is first asked for all rules at once; once some slice
    broke one, for each by itself.
    """

    def __init__(self, table: tuple[Rule, ...], extra: Collection[str] = ()) -> None:
        every = pl.all_horizontal(rule.holds for rule in table)
        self._all = (Rule("all", "every rule holds", every),)
        self._each = table
        self._types = {name: TYPES[name] for name in journal_columns(extra)}
        self._schema_of_all, self._schema_of_each = schema(self._all, self._types), schema(table, self._types)
        self._is_clean = True

    def broken(self, frame: pl.DataFrame) -> pl.DataFrame:
        """One boolean column for each rule that some row breaks, true where it does; none where all is well.

        `frame` has the columns of `TYPES` and `LINE_FACTS`. Raises CorruptionError where it is not of those types.
        """
        self._is_clean = self._is_clean and not self._ask(frame, self._all, self._schema_of_all).width
        return pl.DataFrame() if self._is_clean else self._ask(frame, self._each, self._schema_of_each)

    def _ask(self, frame: pl.DataFrame, table: tuple[Rule, ...], gate: pa.DataFrameSchema) -> pl.DataFrame:
        asked = frame.select(*self._types, *(rule.holds.alias(rule.name + "?") for rule in table))
        try:
            # Whatever the environment says (PANDERA_VALIDATION_…), and a DataFrame: of a LazyFrame it sees no value.
            with config_context(validation_enabled=True, validation_depth=ValidationDepth.SCHEMA_AND_DATA):
                gate.validate(asked, lazy=True)
        except SchemaErrors as errors:
            return asked.select((~pl.col(name)).alias(name[:-1]) for name in _failed(errors))
        return pl.DataFrame()


def _failed(errors: SchemaErrors) -> list[str]:
    names = []
    for error in errors.schema_errors:
        if error.check_output is None or not str(error.schema.name).endswith("?"):
            raise CorruptionError(f"the batch as read is no journal: {str(error)[:200]}") from errors
        names.append(str(error.schema.name))
    return names


def _connections(seal: Seal) -> list[int]:
    return [known.connection for known in seal.connections]
