"""One task and its result: `python examples/producers/hello.py`, with `rota up` running and `echo` deployed."""

from rota.client import Client

with Client() as client:  # the run folder is ROTA_DIR, or .rota here
    task = client.submit("echo", b"hello")
    print(task.result().payload)
