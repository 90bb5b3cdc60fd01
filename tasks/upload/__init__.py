"""Upload: an archived batch becomes objects in a bucket, written once."""
