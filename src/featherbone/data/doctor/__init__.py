"""The doctor: one pass over a data set collects a table, and a list of checks turns it into findings."""
