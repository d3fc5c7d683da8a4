"""Calls of a loaded model: batching, streams, concurrency."""
