"""Arrays and compiled loops: nothing here knows of machine learning."""
