"""What is done to an attempt while it runs: what people want of it, and its time limit."""

from __future__ import annotations

import asyncio

from daemons.common.log import Log
from daemons.common.threads import until
from daemons.runner.driven import MAX_DELAY, Driven
from daemons.runner.model import TryLater, Wish
from daemons.runner.shim.limit import LOOK_INTERVAL, TimeLimit
from daemons.runner.shim.proc import boottime
from hakuriver.errors import HakuRiverError
from hakuriver.lifecycle import Intent, State

log = Log("agent")


async def obey(work: Driven) -> None:
    """Carry out the newest intent, again and again until it is done."""
    delay, told = 0.1, ""
    while True:
        work.wished.clear()
        wish = work.attempt.wish
        if wish is None or (wish.version <= work.attempt.carried and wish.intent is not Intent.KILL):
            await work.wished.wait()
            continue
        await work.running.wait()
        try:
            pause = await _carry_out(work, work.attempt.wish or wish)
            delay, told = 0.1, ""
        except (HakuRiverError, TryLater, TimeoutError) as error:
            why = str(error) or "timed out"
            log.warning("intent_delayed", task=work.attempt.spec.task, error=why)
            if why != told:
                told = why
                await work.report(work.attempt.state, reason=f"{why}; trying again")
            pause, delay = delay, min(delay * 2, MAX_DELAY)
        except Exception as error:  # noqa: BLE001  one attempt in trouble must not end the others
            log.unexpected("intent_in_trouble", error, task=work.attempt.spec.task)
            pause = MAX_DELAY
        await until(work.wished, pause)


async def _carry_out(work: Driven, wish: Wish) -> float:
    """Act on an intent that is journaled; returns seconds after which to look again."""
    if wish.intent is Intent.KILL:
        await _kill(work, wish)
        return wish.grace + 5
    if wish.intent is Intent.PAUSE:
        await _pause(work, wish)
        await work.report(State.PAUSED, intent_version=wish.version)
    else:
        if work.attempt.state is State.PAUSED:
            await _resume(work)
        await work.report(State.RUNNING, intent_version=wish.version)
    work.attempt.carried = wish.version
    return 0


async def _kill(work: Driven, wish: Wish) -> None:
    killing = asyncio.create_task(work.executor.kill(work.attempt, wish.grace))
    again = asyncio.create_task(work.wished.wait())  # killed again, more urgently
    try:
        await asyncio.wait({killing, again}, return_when=asyncio.FIRST_COMPLETED)
        if killing.done():
            killing.result()
    finally:
        killing.cancel()
        again.cancel()


async def _pause(work: Driven, wish: Wish) -> None:
    new = await work.executor.pause(work.attempt)
    if (limit := work.limit) is not None and limit.kept["since"] is not None:
        # one that stands still already was paused by us when we were killed, or before an answer was lost
        limit.pause(boottime() if new else max(wish.at_boot, limit.kept["since"]))
        await work.keep()
        work.clocked.set()


async def _resume(work: Driven) -> None:
    limit = work.limit
    if limit is not None:
        limit.resume(boottime())
        await work.keep()  # before it goes on: in doubt it ran
    if await work.executor.resume(work.attempt) and limit is not None:
        limit.kept["since"] = boottime()
        await work.keep()
    work.clocked.set()


async def keep_time(work: Driven) -> None:
    """Warn an attempt and end it at its time limit, where no shim does."""
    await work.running.wait()
    limit = work.limit
    while limit is not None:
        work.clocked.clear()
        pause = LOOK_INTERVAL
        try:
            if limit.over or not work.attempt.kill_wanted:
                pause = await _keep_time(work, limit)
        except (HakuRiverError, TryLater, TimeoutError) as error:
            log.warning("time_limit_delayed", task=work.attempt.spec.task, error=str(error) or "timed out")
            pause = 1.0
        except Exception as error:  # noqa: BLE001  one attempt in trouble must not end the others
            log.unexpected("time_limit_in_trouble", error, task=work.attempt.spec.task)
            pause = MAX_DELAY
        await until(work.clocked, pause)


async def _keep_time(work: Driven, limit: TimeLimit) -> float:
    """Do what is due; returns seconds after which to look again."""
    now = boottime()
    if limit.end_due(now):
        if not limit.over:
            limit.kept["over"] = now
            await work.keep()
        await work.executor.kill(work.attempt, limit.grace)
    elif limit.notice_due(now):
        await work.executor.signal(work.attempt, limit.signal)
        limit.kept["noticed"] = True
        await work.keep()
    return limit.wait(boottime())
