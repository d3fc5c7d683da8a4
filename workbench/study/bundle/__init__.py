"""Export a recommended artifact as a folder, and benchmark artifacts on other machines."""
