"""Worker processes that prepare and time variants, and the protocol between them and the study."""
