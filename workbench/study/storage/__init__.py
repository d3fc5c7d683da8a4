"""Store trials and artifacts: database, run sessions, artifact store."""
