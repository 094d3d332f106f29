"""What the buttons of the page do: each is an order as the command line gives it, checked by the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from coordinator.orders import Orders
from diffusion_at_home.errors import ConfigError

_MOST_DAYS: Final = 36_500.0

Form = Mapping[str, str]


def act(orders: Orders, form: Form) -> str:
    """Give the order that `form` names; says what it came to. Raises `ConfigError` if it comes to nothing."""
    name = form.get("act", "")
    if name not in _ACTS:
        raise ConfigError("the page has no such button: open it anew")
    return _ACTS[name](orders, form)


def _drain(orders: Orders, form: Form) -> str:
    return f"The run comes to rest (action {orders.drain(_note(form)).action_id})."


def _resume(orders: Orders, form: Form) -> str:
    return f"The run goes on (action {orders.resume(_note(form)).action_id})."


def _publish(orders: Orders, form: Form) -> str:
    made = orders.publish(_note(form))
    if made.checkpoint:
        return f"Version {made.version} is checkpoint {made.checkpoint} already."
    return f"A checkpoint of version {made.version} will be made (action {made.number})."


def _note_only(orders: Orders, form: Form) -> str:
    return f"Noted (action {orders.note(_note(form)).action_id})."


def _ban(orders: Orders, form: Form) -> str:
    banned = orders.ban(_field(form, "worker"), days=_days(_field(form, "days")), note=_note(form))
    return f"Worker {banned.subject} is banned (action {banned.action_id})."


def _unban(orders: Orders, form: Form) -> str:
    back = orders.unban(_field(form, "worker"))
    return f"Worker {back.subject} may come back (action {back.action_id})."


def _rollback(orders: Orders, form: Form) -> str:
    version = _field(form, "version")
    if version != _field(form, "again"):
        raise ConfigError("nothing was done: type the number of the version twice, the same each time")
    if not (version.isascii() and version.isdigit() and len(version) <= 18):
        raise ConfigError("nothing was done: the version is a number")
    order = orders.rollback(int(version), _note(form))
    return f"The run goes back to version {order.subject} (action {order.action_id})."


_ACTS: Final[Mapping[str, Callable[[Orders, Form], str]]] = {
    "drain": _drain,
    "resume": _resume,
    "publish": _publish,
    "note": _note_only,
    "ban": _ban,
    "unban": _unban,
    "rollback": _rollback,
}


def _field(form: Form, name: str) -> str:
    return form.get(name, "").strip()


def _note(form: Form) -> str:
    return _field(form, "note")


def _days(text: str) -> float:
    try:
        days = float(text or "0")
    except ValueError:
        days = -1.0
    if not 0 <= days <= _MOST_DAYS:
        raise ConfigError(f"days are a number from 0, which is for good, to {_MOST_DAYS:,.0f}")
    return days
