"""What is built: chords and chains of the shop's tasks."""

from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

from celery import chain, chord, group

from chord.case import Canvas


def four(shop: ModuleType) -> Any:
    """Four parts of half a second; two run at a time."""
    return chord([shop.charge.s(n, 0.5) for n in range(4)], shop.total.s())


def two(shop: ModuleType) -> Any:
    """Two parts of half a second, side by side."""
    return chord([shop.charge.s(n, 0.5) for n in range(2)], shop.total.s())


def beside(part: Canvas) -> Canvas:
    """One part that succeeds at once, and the one under study."""
    return lambda shop: chord([shop.charge.s(0), part(shop)], shop.total.s())


def behind(part: Canvas) -> Canvas:
    """One part that keeps a worker with one process busy, and the one under study behind it."""
    return lambda shop: chord([shop.charge.s(0, 0.7), part(shop)], shop.total.s())


def task(name: str, *arguments: Any, **options: Any) -> Canvas:
    return lambda shop: getattr(shop, name).s(*arguments).set(**options)


def linked(name: str, **options: Any) -> Canvas:
    """A chain whose first link is under study."""
    return lambda shop: chain(getattr(shop, name).s(1).set(**options), shop.charge.s())


def unknown(shop: ModuleType) -> Any:
    return shop.app.signature("shop.renamed")


def past() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=1)


def ten_parts(shop: ModuleType) -> Any:
    return chord([shop.charge.s(0, 0.7), *(shop.charge.s(n) for n in range(9))], shop.total.s())


def inner(name: str) -> Canvas:
    return beside(lambda shop: chord([getattr(shop, name).s(), shop.charge.s(1)], shop.total.s()))


def grouped(name: str) -> Canvas:
    return beside(lambda s: chain(group(getattr(s, name).s(), s.charge.s(1)), s.total.s()))


def with_body(part: str, body: Canvas) -> Canvas:
    return lambda shop: chord([getattr(shop, part).s(1), shop.charge.s(1)], body(shop))


def chord_as_body(shop: ModuleType) -> Any:
    return chord([shop.charge.si(1), shop.charge.si(2)], shop.total.s())


def alarmed(canvas: Canvas) -> Canvas:
    """With an errback on the chord itself, not on its body."""
    return lambda shop: canvas(shop).on_error(shop.alarm.s())


def limited(shop: ModuleType) -> Any:
    body = shop.total.s().set(time_limit=2, soft_time_limit=1)
    return chord([shop.charge.s(n, 0.5) for n in range(4)], body)


def three(middle: Canvas) -> Canvas:
    return lambda shop: chain(shop.charge.s(1, 0.5), middle(shop), shop.charge.s())


def halfway(shop: ModuleType) -> Any:
    def orders() -> Any:
        yield from (shop.charge.s(n) for n in range(3))
        raise ValueError("the list of orders ended early")

    return chord(orders(), shop.total.s())


EXPIRED = linked("charge", expires=past())
PARCEL = task("charge", 1, queue="parcels")
