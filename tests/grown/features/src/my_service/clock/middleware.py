from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RegionMiddleware:
    """Adds the region of the service to each response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_region(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-region", b"eu")]
            await send(message)

        await self.app(scope, receive, send_region)
