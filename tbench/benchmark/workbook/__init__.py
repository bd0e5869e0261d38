"""The workbook of a benchmark (`tbench excel`)."""
