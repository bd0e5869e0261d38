"""Reports: what an analysis looks like as text, as JSON, as a page."""
