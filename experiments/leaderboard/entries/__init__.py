"""One file for each entry. RULES.md says what a file contains."""
