"""Calls of a loaded model: sessions, batching, streaming, concurrency, buffers, out-of-memory backoff."""
