"""Classifies many images over one connection, on asyncio; answers arrive as they are done, in any order.

corolla serve --store .demo/store &
python examples/stream.py photos/*.jpg --task digits --route lora
"""

import argparse
import asyncio
import glob
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import corolla


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=sorted(glob.glob(".demo/images/*.png")))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--route", default="lora")
    given = parser.parse_args()

    async def requests() -> AsyncIterator[tuple[str, Any]]:
        for path in given.images:
            data = await asyncio.to_thread(Path(path).read_bytes)
            yield path, corolla.request_of([data], route=given.route, task=given.task)

    async with corolla.AsyncClient(given.server) as client:
        async for path, answer in client.stream(requests()):
            if isinstance(answer, corolla.RequestFailed):
                print(path, "-", answer)
            else:
                print(path, answer.results[0].top[0].class_name)


if __name__ == "__main__":
    asyncio.run(main())
