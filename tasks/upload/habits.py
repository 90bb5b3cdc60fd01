"""What has this process seen a store do, so that it need not be asked each time?

Two things are learnt of each bucket, by its answers about objects of ours, and forgotten when the process ends.
Until they are seen the careful way is taken: look, put, look again.
"""

from dataclasses import dataclass

from tasks.upload.bucket import Bucket


@dataclass(slots=True)
class Habits:
    """What one bucket's store has shown.

    `refuses_second`: asked to create an object that stood there already, it refused (412); None while unseen.
    `tells_sha256`: the SHA-256 with which it answered a put was the one it then gave of the object itself.
    `puts` counts the objects that were written.
    """

    refuses_second: bool | None = None
    tells_sha256: bool = False
    puts: int = 0


_SEEN: dict[tuple[str | None, str], Habits] = {}


def habits_of(bucket: Bucket) -> Habits:
    """What is known of that bucket; what is learnt is written into it."""
    return _SEEN.setdefault((bucket.endpoint_url, bucket.name), Habits())
