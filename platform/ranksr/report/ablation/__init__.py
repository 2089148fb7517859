"""The report's part on ablations: records, summary tables, plots."""
