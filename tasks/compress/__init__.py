"""Compress: valid rows become Parquet with a manifest."""
