"""The outer loop: oracles of the criterion, step rules, the history and the search itself."""
