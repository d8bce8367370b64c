"""Many tasks in one message, their results as they come, and the lane's digest. Needs `echo` deployed."""

from rota.client import Client

with Client() as client:
    batch = client.submit_many("echo", [f"line {number}".encode() for number in range(10_000)])
    total = sum(len(result.payload or b"") for result in batch.as_completed())
    print(total, "bytes back;", client.wait_idle()["digest"].hex())
