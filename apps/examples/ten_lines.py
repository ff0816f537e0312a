import asyncio

from visavis.client import connect, film


async def main() -> None:
    async with connect("ws://127.0.0.1:8765", portrait="anna") as avatar:
        filming = asyncio.create_task(film(avatar.frames(), "chat.mp4"))
        while line := await asyncio.to_thread(input, "you: "):
            await avatar.finished(await avatar.speak(f"You said: {line}"))
    print(await filming, "frames in chat.mp4")


asyncio.run(main())
