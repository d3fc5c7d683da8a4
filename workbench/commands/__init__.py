"""The larger commands of the program ``workbench``, one file each, and what all of them share."""
