"""Replay: a tape is served as a Finnhub websocket."""
