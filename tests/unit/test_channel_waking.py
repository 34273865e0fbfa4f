"""A channel wakes one of those who wait for what happened, and nobody waits for what is there."""

from __future__ import annotations

import asyncio

import pytest

from edged.channel import Channel, ChannelClosed


async def waiting(channel: Channel[int], count: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.create_task(channel.receive()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_each_item_goes_to_who_waits_longest_and_the_others_sleep_on() -> None:
    channel: Channel[int] = Channel(4)
    tasks = await waiting(channel, 3)
    await channel.send(1)
    await turns()
    assert [task.done() for task in tasks] == [True, False, False]
    await channel.send(2)
    await channel.close()
    assert await asyncio.gather(*tasks, return_exceptions=True)
    assert [tasks[0].result(), tasks[1].result()] == [1, 2]
    assert isinstance(tasks[2].exception(), ChannelClosed)


async def test_an_item_whose_receiver_is_cancelled_as_it_comes_goes_to_the_next() -> None:
    channel: Channel[int] = Channel(4)
    tasks = await waiting(channel, 3)
    await channel.send(7)  # wakes the first, which is cancelled before it runs
    tasks[0].cancel()
    tasks[1].cancel()
    async with asyncio.timeout(2):
        assert await tasks[2] == 7


async def test_one_that_is_cancelled_is_not_woken_in_place_of_another() -> None:
    channel: Channel[int] = Channel(4)
    tasks = await waiting(channel, 2)
    tasks[0].cancel()
    await channel.send(7)  # the cancelled one has not run yet
    async with asyncio.timeout(2):
        assert await tasks[1] == 7
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]


async def test_a_full_channel_lets_its_senders_in_one_by_one_and_ends_them_when_it_closes() -> None:
    channel: Channel[int] = Channel(1)
    await channel.send(0)
    senders = [asyncio.create_task(channel.send(number)) for number in (1, 2, 3)]
    await turns()
    assert [await channel.receive(), await channel.receive()] == [0, 1]
    await turns()
    assert [sender.done() for sender in senders] == [True, True, False] and len(channel) == 1
    await channel.close()
    with pytest.raises(ChannelClosed):
        await senders[2]
    assert await channel.receive() == 2
