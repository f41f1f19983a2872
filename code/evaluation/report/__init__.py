"""The report: one self-contained page with tables, figures and a trace viewer, from a folder of records."""
