"""Upload: archived batches become objects in a bucket, written once, and come back from there."""
