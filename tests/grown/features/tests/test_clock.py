from websockets.asyncio.client import connect

from .conftest import Served


async def test_a_stream_ends_with_the_process(served: Served) -> None:
    async with served.client.stream("GET", "/v1/clock/ticks") as response:
        lines = response.aiter_lines()
        assert await anext(lines) == "data: 0"
        served.process.terminate()
        assert [line async for line in lines]
    assert served.process.wait(10) == 0


async def test_a_socket_knows_its_caller(served: Served) -> None:
    url = str(served.client.base_url.copy_with(scheme="ws", path="/v1/clock/socket"))
    headers = {"Authorization": served.client.headers["Authorization"]}
    async with connect(url, additional_headers=headers, proxy=None) as socket:
        await socket.send("tick")
        assert await socket.recv() == "tick"
