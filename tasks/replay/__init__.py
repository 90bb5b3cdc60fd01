"""Replay: a tape is served as a vendor's websocket."""
