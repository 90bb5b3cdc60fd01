"""Replay: serves a tape as a vendor's websocket."""
