"""The boards of running sessions as Prometheus reads them (text exposition format 0.0.4)."""

from collections.abc import Callable, Sequence

from tape.dashboard.model import Board

_METRICS: tuple[tuple[str, str, str, Callable[[Board], float | None]], ...] = (
    ("tape_up", "gauge", "1 if trades can be received now.", lambda board: float(board.health == "up")),
    ("tape_stale", "gauge", "1 if the recorder does not report.", lambda board: float(board.health == "stale")),
    ("tape_trades_total", "counter", "Trades received.", lambda board: board.trades),
    ("tape_trades_per_second", "gauge", "Trades of the last seconds.", lambda board: board.trades_per_s),
    ("tape_symbols", "gauge", "Symbols that are recorded.", lambda board: len(board.rows)),
    ("tape_gaps_total", "counter", "Gaps so far, open ones included.", lambda board: len(board.gaps)),
    ("tape_gaps_open", "gauge", "Gaps that are open.", lambda board: sum(gap.end_ns is None for gap in board.gaps)),
    ("tape_quarantined_total", "counter", "Trades quarantined.", lambda board: sum(board.quarantine.values())),
    ("tape_queue_bytes", "gauge", "Waits between socket and journal.", lambda board: _of_status(board, "queue_bytes")),
    ("tape_connections_total", "counter", "Connections made.", lambda board: _of_status(board, "connection")),
    ("tape_disk_free_bytes", "gauge", "Free space for data.", lambda board: board.disk_free_bytes),
)  # fmt: skip
_LAGS = (("0.5", "lag_p50_ms"), ("0.95", "lag_p95_ms"), ("0.99", "lag_p99_ms"))


def exposition(boards: Sequence[Board]) -> str:
    """Return the metrics of these boards; what a board does not know is left out."""
    lines = []
    for name, kind, told, value_of in _METRICS:
        lines += [f"# HELP {name} {told}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(board)} {value:.10g}" for board in boards if (value := value_of(board)) is not None]
    lines += ["# HELP tape_lag_seconds Receive minus event time.", "# TYPE tape_lag_seconds gauge"]
    for board in boards:
        lags = [(quantile, getattr(board, field)) for quantile, field in _LAGS]
        lines += [f"tape_lag_seconds{_labels(board, q)} {lag / 1e3:.10g}" for q, lag in lags if lag is not None]
    lines += ["# HELP tape_batches Batches by the stage they have reached.", "# TYPE tape_batches gauge"]
    for board in boards:
        stages = [batch.stage for batch in board.batches]
        lines += [f"tape_batches{_labels(board, None, stage)} {stages.count(stage)}" for stage in sorted(set(stages))]
    return "\n".join(lines) + "\n"


def _of_status(board: Board, field: str) -> float | None:
    value: float | None = getattr(board.status, field, None)
    return value


def _labels(board: Board, quantile: str | None = None, stage: str | None = None) -> str:
    named = {"session": board.session, "feed": board.feed, "quantile": quantile, "stage": stage}
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in named.items() if value is not None) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
