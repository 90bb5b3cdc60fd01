"""Capture: from the websocket to sealed CSV batches."""
