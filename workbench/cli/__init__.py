"""The command line ``workbench``: one module per command."""
