"""The peer: the barest aiohttp handlers that answer alike, with no limits, headers, logs or ledger.

Run as `python -m bench.bare`: prints its port. On uvloop where that is installed.
"""

import asyncio
import contextlib
import importlib.util
import json

from aiohttp import web

_TOKENS = 100
_GAP = 0.02
_TEXT = " ".join(["the"] * _TOKENS)
_WHOLE = json.dumps({"choices": [{"message": {"role": "assistant", "content": _TEXT}, "finish_reason": "length"}]})
_EVENT = b'data: {"choices":[{"delta":{"content":" the"},"finish_reason":null,"index":0}],"filler":"%b"}\n\n' % (
    b"x" * 300
)


async def whole(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(text=_WHOLE, content_type="application/json")


async def stream(request: web.Request) -> web.StreamResponse:
    await request.read()
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    response.enable_chunked_encoding()
    await response.prepare(request)
    loop = asyncio.get_running_loop()
    start = loop.time()
    # The client leaves in the middle when it has seen enough.
    with contextlib.suppress(ConnectionResetError):
        for number in range(_TOKENS):
            await asyncio.sleep(max(0.0, start + number * _GAP - loop.time()))
            await response.write(_EVENT)
        await response.write_eof()
    return response


async def main() -> None:
    app = web.Application()
    app.router.add_post("/whole", whole)
    app.router.add_post("/stream", stream)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
