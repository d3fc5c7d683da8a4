"""Present results as text and HTML: formats, tables, findings, code. Used by widgets, report and command line."""
