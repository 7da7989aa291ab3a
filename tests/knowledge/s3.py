"""An S3 server on loopback, in memory, and what another process needs to use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

BUCKET = "bases"


@contextmanager
def serving() -> Iterator[dict[str, str]]:
    """LanceDB's options for a server that runs meanwhile and has one empty bucket, :data:`BUCKET`."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    # A line for every request is thousands in a report.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        keys = {"aws_access_key_id": "id", "aws_secret_access_key": "very-secret"}
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=BUCKET)
        client.close()
        yield {"endpoint": endpoint, "allow_http": "true", "region": "us-east-1", **keys}
    finally:
        server.stop()
