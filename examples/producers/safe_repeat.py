"""Run it repeatedly, or kill it halfway: each line of a file is submitted once. Needs `echo` deployed.

`python examples/producers/safe_repeat.py FILE`: producer id and line number make repeated submits one.
"""

import sys

from rota.client import Client, StaleNumber

if len(sys.argv) != 2:
    sys.exit("usage: python safe_repeat.py FILE")

with Client(producer="safe-repeat") as client, open(sys.argv[1], "rb") as lines:
    for number, line in enumerate(lines, 1):
        try:
            print(client.submit("echo", line.rstrip(), number=number, block=True, wait=False).seq)
        except StaleNumber:
            print("submitted long ago")
