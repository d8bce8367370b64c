"""Two hundred coroutines, one client, one connection. Needs `echo` deployed."""

import asyncio

from rota.client import AsyncClient


async def ask(client: AsyncClient, number: int) -> int:
    task = await client.submit("echo", {"number": number})
    result = await task.result()
    return int(result.value["number"])


async def main() -> None:
    async with AsyncClient() as client:
        print(sum(await asyncio.gather(*(ask(client, number) for number in range(200)))))


asyncio.run(main())
