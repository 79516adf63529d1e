"""Arrays and compiled loops; nothing here depends on machine learning."""
