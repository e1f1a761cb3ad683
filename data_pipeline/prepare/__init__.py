"""From footage to a data set: `python -m data_pipeline.prepare`."""
