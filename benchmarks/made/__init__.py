"""Pictures that are drawn in code, because nobody has any that may be used."""
