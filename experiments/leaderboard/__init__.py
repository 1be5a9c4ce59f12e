"""The leaderboard of decays: the entries, and the rules in RULES.md."""
